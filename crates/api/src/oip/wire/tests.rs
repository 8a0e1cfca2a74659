use serde_json::json;

use super::*;

fn tensor(name: &str, dtype: DType, shape: &[u64], data: &[u8]) -> TensorData {
    TensorData::new(name, dtype, shape.to_vec(), data.to_vec()).unwrap()
}

fn decode(body: &Value) -> Result<Request, WireError> {
    Request::decode(body.to_string().as_bytes(), None)
}

fn input(replace: &[(&str, Value)]) -> Value {
    let mut input = json!({ "name": "x", "shape": [2], "datatype": "UINT8", "data": [1, 2] });
    for (name, value) in replace {
        input[*name] = value.clone();
    }
    json!({ "inputs": [input] })
}

#[test]
fn a_json_request_is_understood() {
    let mut body = input(&[]);
    body["id"] = json!("42");
    body["outputs"] =
        json!([{ "name": "y" }, { "name": "z", "parameters": { "binary_data": true } }]);
    body["parameters"] = json!({ "binary_data_output": true });
    let request = decode(&body).unwrap();
    assert_eq!(request.id.as_deref(), Some("42"));
    assert_eq!(request.inputs, [tensor("x", DType::U8, &[2], &[1, 2])]);
    assert_eq!(request.outputs[0].binary, None);
    assert_eq!(request.outputs[1].binary, Some(true));
    assert!(request.binary_by_default());
}

#[test]
fn the_order_of_members_does_not_matter() {
    let text = br#"{"inputs":[{"data":[[1],[2]],"datatype":"UINT8","shape":[2,1],"name":"x"}]}"#;
    assert_eq!(
        Request::decode(text, None).unwrap().inputs,
        [tensor("x", DType::U8, &[2, 1], &[1, 2])]
    );
}

#[test]
fn a_binary_request_round_trips() {
    let request = Request {
        id: Some("7".to_owned()),
        parameters: [("binary_data_output".to_owned(), json!(true))]
            .into_iter()
            .collect(),
        inputs: vec![
            tensor("a", DType::F32, &[1], &1.5f32.to_le_bytes()),
            tensor("b", DType::Bool, &[2], &[0, 1]),
            tensor("empty", DType::I64, &[0], &[]),
        ],
        outputs: vec![WantedOutput {
            name: "y".to_owned(),
            binary: Some(false),
        }],
    };
    let body = request.encode();
    assert_eq!(
        Request::decode(&body.bytes, body.header_length).unwrap(),
        request
    );
}

#[test]
fn a_response_round_trips_in_json_and_binary() {
    for binary in [false, true] {
        let response = Response {
            model_name: "a/b".to_owned(),
            model_version: "1".to_owned(),
            id: None,
            parameters: Map::new(),
            outputs: vec![
                (
                    tensor("y", DType::F32, &[2], &[0, 0, 128, 63, 205, 204, 204, 61]),
                    binary,
                ),
                (tensor("z", DType::I64, &[1], &(-5i64).to_le_bytes()), false),
            ],
        };
        let body = response.encode().unwrap();
        assert_eq!(body.header_length.is_some(), binary);
        assert_eq!(
            Response::decode(&body.bytes, body.header_length).unwrap(),
            response
        );
    }
}

#[test]
fn what_json_lacks_travels_as_binary_only() {
    let response = |binary| Response {
        model_name: "a/b".to_owned(),
        model_version: String::new(),
        id: None,
        parameters: Map::new(),
        outputs: vec![(
            tensor("y", DType::F32, &[1], &f32::NAN.to_le_bytes()),
            binary,
        )],
    };
    assert!(
        response(false)
            .encode()
            .unwrap_err()
            .to_string()
            .contains("`y`")
    );
    let body = response(true).encode().unwrap();
    assert_eq!(
        Response::decode(&body.bytes, body.header_length).unwrap(),
        response(true)
    );
}

#[test]
fn mistakes_name_tensor_field_and_reason() {
    for (replace, reason) in [
        (
            ("datatype", json!("FLOAT")),
            "input `x`: datatype: unknown datatype `FLOAT`",
        ),
        (
            ("datatype", json!(null)),
            "input `x`: datatype: it is missing",
        ),
        (("shape", json!(null)), "input `x`: shape: it is missing"),
        (
            ("shape", json!([-1, 2])),
            "input `x`: shape: [-1, 2] has a negative dimension",
        ),
        (
            ("shape", json!([3])),
            "input `x`: data: tensor `x`: 2 elements are given",
        ),
        (
            ("shape", json!([u32::MAX, u32::MAX, 4])),
            "input `x`: data: tensor `x`: 2 elements are given",
        ),
        (("data", json!(null)), "input `x`: data: it is missing"),
        (
            ("data", json!([1, 256])),
            "input `x`: data: element 1 is 256, which does not fit UINT8",
        ),
        (
            ("parameters", json!({ "binary_data_size": 2 })),
            "input `x`: data: it excludes binary_data_size",
        ),
    ] {
        let error = decode(&input(&[replace])).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{error}");
    }
    for (body, reason) in [
        ("{", "EOF"),
        ("{}", "inputs"),
        ("[]", "expected"),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}"#,
            "the body is not valid",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":["1"]}]}"#,
            "tensor `x`: data: invalid type: string",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":1}]}"#,
            "tensor `x`: shape: invalid type",
        ),
        (
            r#"{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}"#,
            "name",
        ),
    ] {
        let error = Request::decode(body.as_bytes(), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn binary_data_has_to_add_up() {
    let header = |size: Value| {
        let tensor = json!({ "name": "x", "shape": [2], "datatype": "UINT8", "parameters": { "binary_data_size": size } });
        json!({ "inputs": [tensor] }).to_string()
    };
    let decode = |size: Value, tail: &[u8]| {
        let header = header(size);
        let body = [header.as_bytes(), tail].concat();
        Request::decode(&body, Some(header.len()))
    };
    assert_eq!(decode(json!(2), &[1, 2]).unwrap().inputs[0].data(), [1, 2]);
    assert!(matches!(
        decode(json!(2), &[1, 2, 3]),
        Err(WireError::Trailing(1))
    ));
    for (size, tail) in [
        (json!(3), &[1, 2][..]),
        (json!(u64::MAX), &[1, 2]),
        (json!(-1), &[1, 2]),
        (json!("2"), &[1, 2]),
        (json!(1), &[1]),
    ] {
        let error = decode(size, tail).unwrap_err().to_string();
        assert!(error.contains("input `x`"), "{error}");
    }
    assert!(matches!(
        Request::decode(b"{}", Some(3)),
        Err(WireError::HeaderLength { header: 3, body: 2 })
    ));
}

#[test]
fn files_hold_requests_responses_or_one_tensor() {
    let one = json!({ "name": "x", "shape": [2], "datatype": "UINT8", "data": [1, 2] });
    for file in [
        json!({ "inputs": [one] }),
        json!({ "outputs": [one] }),
        json!({ "receipt_id": "0x", "outputs": [one] }),
        one.clone(),
    ] {
        let tensors = decode_tensors(file.to_string().as_bytes()).unwrap();
        assert_eq!(tensors, [tensor("x", DType::U8, &[2], &[1, 2])]);
        let again = json!({ "outputs": serde_json::to_value(JsonTensors(&tensors)).unwrap() });
        assert_eq!(
            decode_tensors(again.to_string().as_bytes()).unwrap(),
            tensors
        );
    }
    for bad in ["{}", "[]", "5", r#"{"name":"x"}"#] {
        assert!(decode_tensors(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn too_many_tensors_are_refused() {
    let one = json!({ "name": "x", "shape": [1], "datatype": "UINT8", "data": [1] });
    let body = json!({ "inputs": vec![one; limits::TENSORS + 1] });
    assert!(matches!(decode(&body), Err(WireError::Count(_))));
}
