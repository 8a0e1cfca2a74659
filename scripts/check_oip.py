"""Checks the Open Inference Protocol v2 with Triton's HTTP client, unmodified, on the sample models.

    python scripts/check_oip.py http://127.0.0.1:8402

The network must have published `lemma/digits` and `lemma/iris`, as `lemma up` does.
"""

import argparse
import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import tritonclient.http as triton
from report import Report, equal, refused
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS, IRIS = "lemma/digits", "lemma/iris"


def example(name):
    return np.load(MODELS / name / "example.npy")


def tensor(name, array, binary):
    given = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def infer(client, model, name, array, outputs, *, binary_in=True, binary_out=True, **options):
    """Outputs by name, and the response's own fields."""
    wanted = [triton.InferRequestedOutput(output, binary_data=binary_out) for output in outputs]
    result = client.infer(model, [tensor(name, array, binary_in)], outputs=wanted, **options)
    return [result.as_numpy(output) for output in outputs], result.get_response()


def check_server(report, client):
    with report.check("server is live"):
        assert client.is_server_live()
    with report.check("server is ready"):
        assert client.is_server_ready()
    with report.check("server metadata") as say:
        metadata = client.get_server_metadata()
        assert "binary_tensor_data" in metadata["extensions"], metadata["extensions"]
        say(metadata["name"], metadata["version"], metadata["extensions"])


def check_metadata(report, client):
    with report.check(f"{DIGITS} is ready"):
        assert client.is_model_ready(DIGITS)
    with report.check(f"{DIGITS} metadata") as say:
        metadata = client.get_model_metadata(DIGITS)
        equal(metadata["name"], DIGITS, "name")
        equal(metadata["inputs"], [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}], "inputs")
        equal(metadata["outputs"], [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}], "outputs")
        say(metadata["platform"])
    with report.check(f"{IRIS} metadata"):
        outputs = {output["name"]: output for output in client.get_model_metadata(IRIS)["outputs"]}
        equal(outputs["label"], {"name": "label", "datatype": "INT64", "shape": [-1]})
    with report.check("an unknown model is not ready"):
        assert not client.is_model_ready("lemma/absent")
    with report.check("an unknown model has no metadata") as say:
        say(refused(lambda: client.get_model_metadata("lemma/absent"), InferenceServerException))


def check_inference(report, client):
    image = example("digits")
    results = {}
    for binary_in in (False, True):
        for binary_out in (False, True):
            kinds = f"{'binary' if binary_in else 'JSON'} in, {'binary' if binary_out else 'JSON'} out"
            with report.check(f"{DIGITS}, {kinds}") as say:
                (got,), _ = infer(client, DIGITS, "image", image, ["probabilities"], binary_in=binary_in,
                                  binary_out=binary_out)  # fmt: skip
                equal((got.dtype, got.shape), (np.dtype(np.float32), (1, 10)), "type and shape")
                assert abs(got.sum() - 1) < 1e-5, f"sum is {got.sum()}"
                results[kinds] = got
                say(f"a {got.argmax()} with probability {got.max():.4f}")
    with report.check("the same bits by JSON and by binary tensors"):
        equal(len({result.tobytes() for result in results.values()}), 1, "number of distinct results")
    with report.check("the example is read as a 2"):
        equal({int(result.argmax()) for result in results.values()}, {2})

    with report.check("all outputs if none is asked for"):
        result = client.infer(IRIS, [tensor("features", example("iris"), True)])
        equal(result.as_numpy("label").tolist(), [1], "label")
        equal(result.as_numpy("probabilities").shape, (1, 3), "shape")
    with report.check("only the outputs asked for"):
        (label,), response = infer(client, IRIS, "features", example("iris"), ["label"])
        equal(label.dtype, np.dtype(np.int64), "type")
        equal([output["name"] for output in response["outputs"]], ["label"], "outputs")
    with report.check("a batch has the same bits as its rows"):
        rows = np.concatenate([image, image[:, :, ::-1], image.transpose(0, 1, 3, 2)])
        (batch,), _ = infer(client, DIGITS, "image", rows, ["probabilities"])
        for number, row in enumerate(rows):
            (alone,), _ = infer(client, DIGITS, "image", np.ascontiguousarray(row[None]), ["probabilities"])
            equal(batch[number].tobytes(), alone[0].tobytes(), f"row {number}")
    with report.check("request id comes back, with a receipt id") as say:
        _, response = infer(client, DIGITS, "image", image, ["probabilities"], request_id="check-42")
        equal(response["id"], "check-42", "id")
        equal(response["model_name"], DIGITS, "model_name")
        receipt = response["parameters"]["lemma_receipt_id"]
        equal(len(bytes.fromhex(receipt.removeprefix("0x"))), 32, "bytes in the receipt id")
        say(receipt)


def check_refusals(report, client):
    image = example("digits")

    def refuse(what, mention, model, *tensors, **options):
        with report.check(f"refused: {what}") as say:
            error = refused(lambda: client.infer(model, list(tensors), **options), InferenceServerException)
            assert error.status() is not None and str(error.status()).startswith("4"), f"status is {error.status()}"
            assert mention in error.message(), f"`{mention}` is not in `{error.message()}`"
            say(error.message())

    refuse("unknown model", "lemma/absent", "lemma/absent", tensor("image", image, True))
    refuse("unknown input", "picture", DIGITS, tensor("picture", image, True))
    refuse("wrong datatype", "image", DIGITS, tensor("image", image.astype(np.int64), True))
    refuse("wrong shape", "image", DIGITS, tensor("image", image[:, :, :7], True))
    for special in (np.nan, np.inf):
        poisoned = image.copy()
        poisoned[0, 0, 3, 3] = special
        refuse(f"a value of {special}", "image", DIGITS, tensor("image", poisoned, True))
    refuse("wrong rank", "image", DIGITS, tensor("image", image[0], True))
    refuse("unknown output", "logits", DIGITS, tensor("image", image, True),
           outputs=[triton.InferRequestedOutput("logits")])  # fmt: skip


def check_plain_http(report, url):
    """What no client library sends: other spellings of the path, and broken bodies."""
    body = (MODELS / "digits" / "example.json").read_bytes()

    def post(path, data):
        request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    for path in (DIGITS, quote(DIGITS, safe="")):
        with report.check(f"POST /v2/models/{path}/infer with example.json"):
            equal(post(f"/v2/models/{path}/infer", body)["outputs"][0]["name"], "probabilities")
    broken = {
        "no JSON": b"{",
        "no inputs": b"{}",
        "too few values": body.replace(b"[0, ", b"[", 1),
        "a shape that promises more than memory": body.replace(b"[1, 1, 8, 8]", b"[1152921504606846976, 1, 8, 8]"),
        "a negative shape": body.replace(b"[1, 1, 8, 8]", b"[-1, 1, 8, 8]"),
        "a value that is no number": body.replace(b'"data": [', b'"data": ["1", '),
    }
    for what, data in broken.items():
        with report.check(f"refused: {what}") as say:
            equal(data == body, False, "body unchanged")
            with refused(lambda data=data: post(f"/v2/models/{DIGITS}/infer", data), urllib.error.HTTPError) as error:
                equal(error.code, 400, "status")
                say(json.load(error)["error"])

    with report.check("refused: a body of 10 GiB, before it is sent"):
        server = urlsplit(url)
        connection = http.client.HTTPConnection(server.hostname, server.port, timeout=30)
        connection.putrequest("POST", f"/v2/models/{DIGITS}/infer")
        connection.putheader("content-length", str(10 * 2**30))
        connection.endheaders()
        equal(connection.getresponse().status, 413, "status")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the API's address, for instance http://127.0.0.1:8402")
    url = parser.parse_args().url.rstrip("/")
    report = Report()
    with triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=60) as client:
        check_server(report, client)
        check_metadata(report, client)
        check_inference(report, client)
        check_refusals(report, client)
    check_plain_http(report, url)
    report.finish()


if __name__ == "__main__":
    main()
