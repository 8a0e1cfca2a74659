//! The one way to write a configuration down, from which a model's identity is made.

use std::fmt::{Display, Write};

use lemma_kernels::{Gate, Rotation};

use super::{Config, Norms, QkNorm, Scaling};

/// Lines of a name and values. Numbers are decimal; reals are the eight hexadecimal digits of their
/// binary32 form.
#[derive(Default)]
pub(crate) struct Listing(String);

impl Listing {
    pub(crate) fn line(&mut self, name: &str, value: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name} {value}");
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.line(name, format_args!("{}:{value}", value.len()));
    }

    pub(crate) fn real(&mut self, name: &str, value: f32) {
        self.line(name, real(value));
    }

    fn option(&mut self, name: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.line(name, value),
            None => self.line(name, "none"),
        }
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

fn real(value: f32) -> String {
    format!("{:08x}", value.to_bits())
}

fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(|v| v.to_string()).collect();
    match values.is_empty() {
        true => "none".to_owned(),
        false => values.join(" "),
    }
}

impl Config {
    /// The canonical listing of this configuration, chapter 7 of the numeric specification for
    /// language models. Equal configurations have equal listings, unequal ones do not.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut out = Listing::default();
        out.text("architecture", &self.architecture);
        for (name, size) in [
            ("dim", self.dim),
            ("ffn_dim", self.ffn_dim),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("vocab", self.vocab),
            ("context", self.context),
        ] {
            out.line(name, size);
        }
        out.real("norm_epsilon", self.norm_epsilon);
        out.real("norm_offset", self.norm_offset);
        out.line(
            "gate",
            match self.gate {
                Gate::Silu => "silu",
                Gate::GeluTanh => "gelu_tanh",
            },
        );
        out.option("embedding_scale", self.embedding_scale.map(real));
        out.line("tied", self.tied);
        out.line(
            "norms",
            match self.norms {
                Norms::Before => "before",
                Norms::After => "after",
                Norms::Both => "both",
            },
        );
        out.line(
            "qk_norm",
            match self.qk_norm {
                QkNorm::None => "none",
                QkNorm::Heads => "heads",
                QkNorm::Row => "row",
            },
        );
        out.real("attention_scale", self.attention_scale);
        out.option("attention_softcap", self.attention_softcap.map(real));
        out.option("final_softcap", self.final_softcap.map(real));
        out.line("rotary_dim", self.rotary_dim);
        out.line(
            "rotation",
            match self.rotation {
                Rotation::Neighbours => "neighbours",
                Rotation::Halves => "halves",
            },
        );
        for rope in &self.ropes {
            out.line(
                "rope",
                format_args!("{} {}", real(rope.base), scaling(&rope.scaling)),
            );
        }
        for layer in &self.layers {
            let [rope, window] =
                [layer.rope, layer.window].map(|n| n.map_or("none".to_owned(), |n| n.to_string()));
            out.line("layer", format_args!("{rope} {window}"));
        }
        let experts = self.experts.map(|e| {
            list([
                e.count.to_string(),
                e.used.to_string(),
                e.ffn_dim.to_string(),
                e.normalised.to_string(),
            ])
        });
        out.option("experts", experts);
        out.option("bos", self.bos);
        out.line("eos", list(&self.eos));
        out.finish()
    }
}

fn scaling(scaling: &Scaling) -> String {
    match scaling {
        Scaling::None => "none".to_owned(),
        Scaling::Linear(factor) => format!("linear {}", real(*factor)),
        Scaling::Llama3 {
            factor,
            low,
            high,
            original,
        } => format!(
            "llama3 {}",
            list([factor, low, high, original].map(|x| real(*x)))
        ),
        Scaling::Yarn {
            factor,
            fast,
            slow,
            original,
            attention,
            truncate,
        } => format!(
            "yarn {} {truncate}",
            list([factor, fast, slow, original, attention].map(|x| real(*x)))
        ),
        Scaling::Factors { factors, attention } => {
            format!(
                "factors {} {}",
                real(*attention),
                list(factors.iter().map(|x| real(*x)))
            )
        }
    }
}
