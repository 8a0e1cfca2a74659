//! Proofs: an honest one of a small model, changed as the data say.

use std::sync::OnceLock;

use lemma_graph::integer::{
    Expression, Factor, IntegerGraph, Node, Port, Relation, Skeleton, Source, Table, TensorRange,
    Term, View,
};
use lemma_proof::{Evidence, Model, Profile, Proof, Statement, prove_inference, verify_inference};

struct Setup {
    model: Model,
    statement: Statement,
    bytes: Vec<u8>,
    evidence: Vec<u8>,
}

fn view(source: Source, axes: &[usize]) -> View {
    let factor = |(dim, &axis): (usize, &usize)| Factor {
        axes: vec![axis],
        dims: vec![dim],
        relation: Relation::Identity,
    };
    View {
        source,
        factors: axes.iter().enumerate().map(factor).collect(),
    }
}

/// `y = T[(W · x + offset) >> 8]` for three inputs and two outputs.
fn graph() -> IntegerGraph {
    let port = |name: &str| Port::real(name, 1.0);
    let range = |shape: &[usize]| TensorRange {
        shape: shape.to_vec(),
        low: -100,
        high: 100,
    };
    let product = Term::Product {
        coefficient: 1,
        left: view(Source::Input(0), &[1]),
        right: view(Source::Constant(0), &[0, 1]),
        contracted: vec![3],
    };
    let skeleton = Skeleton {
        inputs: vec![(port("x"), range(&[3]))],
        constants: vec![range(&[2, 3])],
        tables: vec![Table {
            entries: (0..256).map(|i| i - 128).collect(),
        }],
        nodes: vec![Node {
            label: "layer".into(),
            expression: Expression {
                shape: vec![2],
                terms: vec![product],
            },
            offset: 128 << 8,
            shift: 8,
            table: 0,
        }],
        outputs: vec![(
            port("y"),
            Expression {
                shape: vec![2],
                terms: vec![Term::Linear {
                    coefficient: 1,
                    view: view(Source::Node(0), &[0]),
                }],
            },
        )],
    };
    IntegerGraph::new(skeleton, vec![vec![3, -70, 100, 41, -9, 77]]).expect("a valid graph")
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let model = Model::register(graph()).expect("registers");
        let (statement, proof) =
            prove_inference(&model, vec![vec![99, -3, 50]], 1, Profile::default()).expect("proves");
        let bytes = proof.to_bytes();
        let evidence = Evidence {
            key: model.key().clone(),
            statement: statement.clone(),
            proof,
        };
        Setup {
            model,
            statement,
            bytes,
            evidence: evidence.to_bytes(),
        }
    })
}

/// Changes bytes: each five of the data are a place and what is added there; one byte more cuts.
fn changed(bytes: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (changes, rest) = data.as_chunks::<5>();
    for [a, b, c, d, change] in changes {
        let place = u32::from_le_bytes([*a, *b, *c, *d]) as usize % bytes.len();
        bytes[place] = bytes[place].wrapping_add(*change);
    }
    if let [cut] = rest {
        bytes.truncate(bytes.len() - usize::from(*cut));
    }
    bytes
}

/// Proofs, changed as the data say. Only the proof as it was is accepted.
pub fn proof(data: &[u8]) -> bool {
    let setup = setup();
    let bytes = changed(&setup.bytes, data);
    let accepted = Proof::from_bytes(&bytes).is_ok_and(|proof| {
        verify_inference(
            setup.model.key(),
            &setup.statement,
            &proof,
            Profile::default(),
        )
        .is_ok()
    });
    assert_eq!(accepted, bytes == setup.bytes);
    accepted
}

/// Most work of a verification.
const WORK: u64 = 1 << 24;

/// Evidence, changed as the data say, and the data themselves. What is accepted is of this model only
/// as it was: a verifier compares the root.
pub fn evidence(data: &[u8]) -> bool {
    let setup = setup();
    let bytes = changed(&setup.evidence, data);
    let accepted = |bytes: &[u8]| {
        Evidence::from_bytes(bytes).is_ok_and(|evidence| {
            assert_eq!(evidence.to_bytes(), bytes);
            let known = evidence.model_root() == setup.model.root();
            // As a validator: of whatever model, if the work is not too much.
            let checked = evidence.verification();
            let holds = checked.is_ok_and(|v| v.work() < WORK && v.run().is_ok());
            assert!(known || !holds);
            assert!(!known || holds == evidence.verify(None).is_ok());
            holds
        })
    };
    assert!(!accepted(data));
    let holds = accepted(&bytes);
    assert_eq!(holds, bytes == setup.evidence);
    holds
}
