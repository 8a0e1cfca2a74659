//! One thing forged at a time, everything else made consistent with it: exactly the check that is responsible fails. Remove
//! a check of the verifier and a test here fails.

use crate::support::{
    ANCHOR, CHAIN_ID, Case, HEIGHT, Plan, SETTLED, block_hash, floats, inputs, outputs,
    validators::{Round, Validators},
};
use lemma_types::{Amount, B256, Mode, TrustedRoot, keys::SecretKey, tensor::TensorData};
use lemma_verify::{
    CheckName, Opened, Outcome, Recompute, Report, Verdict, Verifier, verify_answer,
};

fn names<'a>(checks: impl Iterator<Item = &'a lemma_verify::Check>) -> Vec<CheckName> {
    checks.map(|check| check.name).collect()
}

/// The report is complete, says `Wrong`, and blames exactly `expected`.
#[track_caller]
fn assert_wrong(report: &Report, expected: &[CheckName]) {
    assert_complete(report);
    assert_eq!(names(report.failures()), expected, "{report}");
    assert_eq!(report.verdict, Verdict::Wrong);
}

/// The report is complete, nothing failed, and exactly `expected` is missing.
#[track_caller]
fn assert_inconclusive(report: &Report, expected: &[CheckName]) {
    assert_complete(report);
    assert_eq!(names(report.failures()), [], "{report}");
    assert_eq!(names(report.missing()), expected, "{report}");
    assert_eq!(report.verdict, Verdict::Inconclusive);
}

#[track_caller]
fn assert_complete(report: &Report) {
    let names: Vec<CheckName> = report.checks.iter().map(|check| check.name).collect();
    assert_eq!(names, CheckName::ALL);
    let json = serde_json::to_string(report).unwrap();
    assert_eq!(&serde_json::from_str::<Report>(&json).unwrap(), report);
    let text = report.render();
    for check in &report.checks {
        assert!(text.contains(check.name.name()));
    }
    assert_eq!(
        text.contains("Verified"),
        report.verdict == Verdict::Verified
    );
}

/// Builds with one change and expects exactly one failing check.
#[track_caller]
fn forge(check: CheckName, change: impl FnOnce(&mut Plan)) {
    let mut plan = Plan::default();
    change(&mut plan);
    assert_wrong(&plan.build().verify(), &[check]);
}

/// Changes the finished bundle and expects exactly one failing check.
#[track_caller]
fn tamper(check: CheckName, change: impl FnOnce(&mut Case)) {
    let mut case = Case::new();
    change(&mut case);
    assert_wrong(&case.verify(), &[check]);
}

#[test]
fn an_honest_bundle_verifies() {
    let case = Case::new();
    let report = case.verify();
    assert_complete(&report);
    assert_eq!(report.verdict, Verdict::Verified, "{report}");
    assert!(
        report
            .checks
            .iter()
            .all(|check| check.outcome == Outcome::Ok
                || (check.name == CheckName::Proof && check.outcome == Outcome::NotAsked)),
        "{report}"
    );
    assert_eq!(report.mode, Some(Mode::Signed));
    assert_eq!(report.receipt_id, Some(case.bundle.receipt.receipt.id()));
    let last = report.finality.unwrap();
    assert_eq!(
        (last.height, last.timestamp_ms),
        (HEIGHT, 1_763_600_002_345)
    );
    assert!(report.render().contains("Verified in mode `signed`"));
    // Run again, so the mode's gap is closed.
    assert!(
        !report
            .does_not_cover
            .iter()
            .any(|gap| gap == Mode::Signed.does_not_cover())
    );
}

#[test]
fn an_honest_bundle_verifies_without_contents() {
    let case = Case::new();
    let report = case.verifier().verify(&case.bundle, &Opened::default());
    assert_complete(&report);
    assert_eq!(report.verdict, Verdict::Verified);
    for name in [
        CheckName::Request,
        CheckName::Response,
        CheckName::Transcript,
        CheckName::Recomputation,
    ] {
        assert_eq!(report.outcome(name), Some(Outcome::NotAsked));
    }
    assert!(
        report
            .does_not_cover
            .iter()
            .any(|gap| gap == Mode::Signed.does_not_cover())
    );
}

#[test]
fn first_blocks_without_a_beacon_verify() {
    let plan = Plan {
        extension: Box::new(|extension| extension.seed = None),
        ..Plan::default()
    };
    assert_eq!(plan.build().verify().verdict, Verdict::Verified);
}

#[test]
fn format() {
    tamper(CheckName::Format, |case| {
        case.bundle.schema = "lemma.bundle/2".to_owned()
    });
    let case = Case::new();
    for bytes in [&b""[..], b"{}", b"null", b"[]", b"\xff", &[b' '; 9 << 20]] {
        let report = case.verifier().verify_bytes(bytes, &Opened::default());
        assert_wrong(&report, &[CheckName::Format]);
        assert_eq!(report.mode, None);
    }
}

#[test]
fn nothing_unknown_or_double_is_ignored() {
    let case = Case::new();
    let json = serde_json::to_string(&case.bundle).unwrap();
    let verify = |json: &str| {
        case.verifier()
            .verify_bytes(json.as_bytes(), &case.opened())
    };
    assert_eq!(verify(&json).verdict, Verdict::Verified);
    let outer = json.replacen('{', r#"{"note":1,"#, 1);
    let double = json.replacen('{', r#"{"chain_id":8402,"#, 1);
    let inner = json.replacen(r#""batch":{"#, r#""batch":{"x":0,"#, 1);
    let after = format!("{json}x");
    for forged in [outer, double, inner, after] {
        assert_wrong(&verify(&forged), &[CheckName::Format]);
    }
}

#[test]
fn network() {
    tamper(CheckName::Network, |case| case.bundle.chain_id += 1);
}

#[test]
fn another_trusted_root() {
    let mut case = Case::new();
    case.root.network_key = Validators::deal(CHAIN_ID, 4, 2).identity().into();
    assert_wrong(&case.verify(), &[CheckName::Finality]);
    case.root = TrustedRoot::new(CHAIN_ID + 1, block_hash(0), case.root.network_key);
    let blamed = [
        CheckName::Network,
        CheckName::Signature,
        CheckName::Finality,
    ];
    assert_wrong(&case.verify(), &blamed);
}

#[test]
fn trusted_roots_are_checked() {
    let good = Case::new().root;
    for root in [
        TrustedRoot {
            schema: "lemma.trusted-root/2".to_owned(),
            ..good.clone()
        },
        TrustedRoot {
            network_key: vec![0; 96].into(),
            ..good.clone()
        },
        TrustedRoot {
            network_key: vec![].into(),
            ..good
        },
    ] {
        assert!(Verifier::new(&root).is_err());
    }
}

#[test]
fn signature() {
    forge(CheckName::Signature, |plan| {
        plan.signer = SecretKey::from_bytes(&[9; 32]).unwrap()
    });
    forge(CheckName::Signature, |plan| plan.signed_for += 1);
    for length in [0, 64, 66] {
        tamper(CheckName::Signature, |case| {
            case.signed().signature = vec![1; length].into()
        });
    }
}

/// A changed receipt has another id, so neither its signature nor its place in the batch holds.
#[test]
fn a_receipt_changed_after_signing() {
    let mut case = Case::new();
    case.signed().receipt.completed_at += 1;
    assert_wrong(&case.verify(), &[CheckName::Signature, CheckName::Batch]);
}

#[test]
fn mode() {
    forge(CheckName::Mode, |plan| {
        plan.receipt = Box::new(|receipt| receipt.evidence = B256::repeat_byte(1));
    });
    // This model has files of its own.
    forge(CheckName::Mode, |plan| {
        plan.receipt = Box::new(|receipt| receipt.mode = Mode::Relayed);
    });
    let checked = [Mode::Signed, Mode::Relayed, Mode::Proved];
    for mode in Mode::ALL.into_iter().filter(|mode| !checked.contains(mode)) {
        let plan = Plan {
            receipt: Box::new(move |receipt| receipt.mode = mode),
            ..Plan::default()
        };
        let report = plan.build().verify();
        match mode {
            // Without a word of evidence, which the mode calls for.
            Mode::Proved => assert_wrong(&report, &[CheckName::Mode]),
            _ => assert_inconclusive(&report, &[CheckName::Mode]),
        }
        assert!(
            report
                .does_not_cover
                .iter()
                .any(|gap| gap == mode.does_not_cover())
        );
    }
}

#[test]
fn engine() {
    tamper(CheckName::Engine, |case| {
        case.bundle.engine.runtime = "lemma/9".to_owned()
    });
    tamper(CheckName::Engine, |case| case.bundle.engine.importer += 1);
}

#[test]
fn model() {
    tamper(CheckName::Model, |case| {
        case.bundle.manifest.description.clear()
    });
    tamper(CheckName::Model, |case| {
        case.bundle.manifest.files[0].size += 1
    });
    // Signed and committed to, but no manifest can be so.
    forge(CheckName::Model, |plan| {
        plan.manifest.files[0].path = "../model.onnx".to_owned()
    });
    forge(CheckName::Model, |plan| {
        plan.manifest.schema = "lemma.model/2".to_owned()
    });
}

#[test]
fn request() {
    forge(CheckName::Request, |plan| {
        plan.receipt = Box::new(|receipt| receipt.request_commitment.0[0] ^= 1);
    });
    forge(CheckName::Request, |plan| {
        plan.receipt = Box::new(|receipt| receipt.usage_in += 1)
    });
    tamper(CheckName::Request, |case| {
        case.bundle.openings.as_mut().unwrap().request.0[31] ^= 1;
    });
    // Committed to as they are, but not what the model takes.
    for wrong in [
        vec![],
        vec![floats("imagf", &[1, 1, 8, 8], |_| 0.0)],
        vec![floats("image", &[1, 1, 8, 9], |_| 0.0)],
        [inputs(), inputs()].concat(),
        vec![
            TensorData::new(
                "image",
                lemma_types::tensor::DType::I32,
                vec![1, 1, 8, 8],
                vec![0; 256],
            )
            .unwrap(),
        ],
    ] {
        forge(CheckName::Request, |plan| plan.inputs = wrong);
    }
}

#[test]
fn response() {
    forge(CheckName::Response, |plan| {
        plan.receipt = Box::new(|receipt| receipt.usage_out += 1);
    });
    // A batch of two answers to a batch of one question.
    forge(CheckName::Response, |plan| {
        plan.outputs = vec![floats("logits", &[2, 10], |_| 0.0)]
    });
    // The second run is compared with the commitment, too.
    let mut case = Case::new();
    case.bundle.openings.as_mut().unwrap().response.0[31] ^= 1;
    assert_wrong(
        &case.verify(),
        &[CheckName::Response, CheckName::Recomputation],
    );
    let without_second_run = Opened {
        recompute: Recompute::NotAsked,
        ..case.opened()
    };
    let report = case.verifier().verify(&case.bundle, &without_second_run);
    assert_wrong(&report, &[CheckName::Response]);
}

#[test]
fn transcript() {
    forge(CheckName::Transcript, |plan| {
        plan.receipt = Box::new(|receipt| receipt.transcript_root.0[0] ^= 1);
    });
    tamper(CheckName::Transcript, |case| {
        case.bundle.openings.as_mut().unwrap().transcript.0[31] ^= 1;
    });
}

#[test]
fn other_contents_than_the_receipts() {
    let mut case = Case::new();
    case.inputs = vec![floats("image", &[1, 1, 8, 8], |_| 0.25)];
    let opened = Opened {
        recompute: Recompute::NotAsked,
        ..case.opened()
    };
    let report = case.verifier().verify(&case.bundle, &opened);
    assert_wrong(&report, &[CheckName::Request, CheckName::Transcript]);
}

#[test]
fn batch() {
    forge(CheckName::Batch, |plan| {
        plan.batch = Box::new(|batch| batch.worker.0[0] ^= 1)
    });
    forge(CheckName::Batch, |plan| {
        plan.batch = Box::new(|batch| batch.root.0[0] ^= 1)
    });
    forge(CheckName::Batch, |plan| {
        plan.batch = Box::new(|batch| batch.count = 6)
    });
    forge(CheckName::Batch, |plan| {
        plan.batch = Box::new(|batch| batch.compute_units = 0)
    });
    forge(CheckName::Batch, |plan| {
        plan.batch = Box::new(|batch| batch.fees = Amount::ZERO)
    });
    tamper(CheckName::Batch, |case| {
        case.settlement().receipt_index -= 1
    });
    tamper(CheckName::Batch, |case| {
        case.settlement().receipt_path[0].0[0] ^= 1
    });
    tamper(CheckName::Batch, |case| {
        case.settlement().receipt_path.clear()
    });
    tamper(CheckName::Batch, |case| {
        case.settlement().receipt_path.resize(1_000, B256::ZERO)
    });
}

#[test]
fn header() {
    forge(CheckName::Header, |plan| {
        plan.header = Box::new(|header| header.timestamp += 1)
    });
    forge(CheckName::Header, |plan| {
        plan.header = Box::new(|header| header.number += 1)
    });
    forge(CheckName::Header, |plan| {
        plan.header = Box::new(|header| header.mix_hash.0[0] ^= 1)
    });
    forge(CheckName::Header, |plan| {
        plan.header = Box::new(|header| header.extra_data = vec![0; 32].into());
    });
}

/// Nothing after the header can be checked when it, or its extension, cannot be read.
#[test]
fn unreadable_headers() {
    let broken: [fn(&mut Case); 4] = [
        |case| case.settlement().header = vec![].into(),
        |case| case.settlement().extension = vec![0xc0].into(),
        |case| case.settlement().header = vec![0xff; 5_000].into(),
        |case| {
            let settlement = case.settlement();
            settlement.extension = [&settlement.extension[..], &[0]].concat().into();
        },
    ];
    for change in broken {
        let mut case = Case::new();
        change(&mut case);
        let report = case.verify();
        assert_wrong(&report, &[CheckName::Header]);
        assert_eq!(report.missing().count(), 4);
        assert_eq!(report.finality, None);
    }
}

#[test]
fn batch_log() {
    tamper(CheckName::BatchLog, |case| {
        case.settlement().batch_path[0].0[0] ^= 1
    });
    tamper(CheckName::BatchLog, |case| {
        case.settlement().batch.index += 1
    });
    tamper(CheckName::BatchLog, |case| {
        case.settlement().batch.compute_units += 1
    });
    forge(CheckName::BatchLog, |plan| {
        plan.extension = Box::new(|extension| extension.batches.root.0[0] ^= 1);
    });
    forge(CheckName::BatchLog, |plan| {
        plan.extension = Box::new(|extension| extension.batches.size = 3);
    });
}

#[test]
fn anchor() {
    forge(CheckName::Anchor, |plan| {
        plan.receipt = Box::new(|receipt| receipt.anchor_hash.0[0] ^= 1);
    });
    forge(CheckName::Anchor, |plan| {
        plan.receipt = Box::new(|receipt| receipt.anchor_height = ANCHOR - 1);
    });
    forge(CheckName::Anchor, |plan| {
        plan.extension = Box::new(|extension| extension.history.root.0[0] ^= 1);
    });
    tamper(CheckName::Anchor, |case| {
        case.settlement().anchor_path[0].0[0] ^= 1
    });
    tamper(CheckName::Anchor, |case| {
        case.settlement().anchor_path.clear()
    });
}

#[test]
fn an_anchor_at_block_0_is_the_trusted_genesis() {
    let plan = Plan {
        receipt: Box::new(|receipt| {
            receipt.anchor_height = 0;
            receipt.anchor_hash = block_hash(0);
        }),
        bundle: Box::new(|bundle| {
            let history: Vec<B256> = (0..HEIGHT)
                .map(|height| lemma_types::settlement::history_leaf(block_hash(height)))
                .collect();
            let path = lemma_types::merkle::prove(&history, 0).unwrap();
            bundle.settlement.as_mut().unwrap().anchor_path = path;
        }),
        ..Plan::default()
    };
    let mut case = plan.build();
    assert_eq!(case.verify().verdict, Verdict::Verified);
    case.root.genesis = B256::ZERO;
    assert_wrong(&case.verify(), &[CheckName::Anchor]);
}

#[test]
fn heights() {
    for settled in [ANCHOR, 0, HEIGHT + 1, u64::MAX] {
        forge(CheckName::Heights, |plan| {
            plan.batch = Box::new(move |batch| batch.height = settled);
        });
    }
    for settled in [ANCHOR + 1, SETTLED, HEIGHT] {
        let plan = Plan {
            batch: Box::new(move |batch| batch.height = settled),
            ..Plan::default()
        };
        assert_eq!(plan.build().verify().verdict, Verdict::Verified);
    }
}

#[test]
fn finality() {
    forge(CheckName::Finality, |plan| {
        plan.certify = Box::new(|v, round, block| v.notarize(round, block))
    });
    forge(CheckName::Finality, |plan| {
        plan.certify = Box::new(|v, round, _| v.finalize(round, B256::ZERO))
    });
    forge(CheckName::Finality, |plan| {
        plan.certify = Box::new(|v, round, block| v.finalize(Round { view: 202, ..round }, block));
    });
    forge(CheckName::Finality, |plan| {
        plan.certify = Box::new(|v, round, block| v.finalize(Round { epoch: 1, ..round }, block));
    });
    forge(CheckName::Finality, |plan| {
        plan.certify = Box::new(|v, round, block| {
            v.finalize(
                Round {
                    parent: 199,
                    ..round
                },
                block,
            )
        });
    });
    forge(CheckName::Finality, |plan| {
        plan.certify =
            Box::new(|_, round, block| Validators::deal(CHAIN_ID, 4, 2).finalize(round, block));
    });
    forge(CheckName::Finality, |plan| {
        plan.certify =
            Box::new(|_, round, block| Validators::deal(CHAIN_ID + 1, 4, 1).finalize(round, block));
    });
    tamper(CheckName::Finality, |case| {
        case.settlement().finalization = vec![].into()
    });
    tamper(CheckName::Finality, |case| {
        case.settlement().finalization = vec![0; 5_000].into()
    });
}

/// A header that nobody finalised, however consistent in itself, is not the ledger's.
#[test]
fn another_header_under_an_old_certificate() {
    let old = Case::new().settlement().finalization.clone();
    let mut case = Plan {
        header: Box::new(|header| header.gas_used = 1),
        ..Plan::default()
    }
    .build();
    case.settlement().finalization = old;
    let report = case.verify();
    assert_wrong(&report, &[CheckName::Finality]);
    assert_eq!(report.finality, None);
}

#[test]
fn recomputation() {
    let case = Case::new();
    let verify = |change: fn(&mut lemma_verify::Recomputed)| {
        let mut recomputed = case.recomputed();
        change(&mut recomputed);
        let opened = Opened {
            recompute: Recompute::Done(recomputed),
            ..case.opened()
        };
        case.verifier().verify(&case.bundle, &opened)
    };
    let blamed = [CheckName::Recomputation];
    assert_wrong(
        &verify(|r| r.graph_root = lemma_types::Digest::of(b"other")),
        &blamed,
    );
    assert_wrong(
        &verify(|r| r.outputs = vec![floats("logits", &[1, 10], |_| 0.0)]),
        &blamed,
    );
    assert_wrong(&verify(|r| r.outputs.clear()), &blamed);
    assert_inconclusive(&verify(|r| r.numeric_spec += 1), &blamed);
}

/// Without the outputs at hand, a second run is compared with what the receipt commits to.
#[test]
fn recomputation_without_outputs() {
    let case = Case::new();
    let verify = |outputs| {
        let recomputed = lemma_verify::Recomputed {
            outputs,
            ..case.recomputed()
        };
        let opened = Opened {
            outputs: None,
            recompute: Recompute::Done(recomputed),
            ..case.opened()
        };
        case.verifier().verify(&case.bundle, &opened)
    };
    let report = verify(outputs());
    assert_eq!(report.verdict, Verdict::Verified);
    // What a second run gave is what was answered: nothing about it stays open.
    for opened in [CheckName::Response, CheckName::Transcript] {
        assert_eq!(report.outcome(opened), Some(Outcome::Ok));
    }
    let gap = |gap: &String| gap.contains("asked and answered");
    assert!(!report.does_not_cover.iter().any(gap));
    assert_wrong(
        &verify(vec![floats("logits", &[1, 10], |_| 0.0)]),
        &[CheckName::Recomputation],
    );
}

#[test]
fn missing_evidence_is_inconclusive() {
    let mut case = Case::new();
    let opened = case.opened();
    let unable = Opened {
        recompute: Recompute::Unable("no inputs".to_owned()),
        ..case.opened()
    };
    assert_inconclusive(
        &case.verifier().verify(&case.bundle, &unable),
        &[CheckName::Recomputation],
    );
    let blind = Opened {
        inputs: None,
        ..case.opened()
    };
    assert_inconclusive(
        &case.verifier().verify(&case.bundle, &blind),
        &[CheckName::Recomputation],
    );

    case.bundle.openings = None;
    let without_salts = [
        CheckName::Request,
        CheckName::Response,
        CheckName::Transcript,
        CheckName::Recomputation,
    ];
    assert_inconclusive(
        &case.verifier().verify(&case.bundle, &opened),
        &without_salts,
    );
    let report = case.verifier().verify(&case.bundle, &Opened::default());
    assert_eq!(report.verdict, Verdict::Verified);

    let mut case = Case::new();
    case.bundle.settlement = None;
    let unsettled = [
        CheckName::Batch,
        CheckName::Header,
        CheckName::BatchLog,
        CheckName::Anchor,
        CheckName::Heights,
        CheckName::Finality,
    ];
    assert_inconclusive(&case.verify(), &unsettled);
}

#[test]
fn an_answer_is_checked_before_it_settles() {
    let mut case = Case::new();
    case.bundle.settlement = None;
    let opened = Opened {
        recompute: Recompute::NotAsked,
        ..case.opened()
    };
    let report = verify_answer(&case.bundle, CHAIN_ID, &opened);
    assert_complete(&report);
    assert_eq!(report.verdict, Verdict::Verified);
    assert_eq!(report.outcome(CheckName::Finality), Some(Outcome::NotAsked));
    assert!(
        report
            .does_not_cover
            .iter()
            .any(|gap| gap.contains("ledger"))
    );

    let report = verify_answer(&case.bundle, CHAIN_ID + 1, &opened);
    assert_wrong(&report, &[CheckName::Network, CheckName::Signature]);
    let other = Opened {
        outputs: Some(vec![floats("logits", &[1, 10], |_| 0.0)]),
        ..opened
    };
    let report = verify_answer(&case.bundle, CHAIN_ID, &other);
    assert_wrong(&report, &[CheckName::Response, CheckName::Transcript]);
}
