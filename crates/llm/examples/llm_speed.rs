//! Measures one GGUF file: prefill, decode, eight streams at once, replay, memory. Prints one line
//! of JSON. `bench/llm/run.py` calls it beside llama.cpp.
//!
//!     llm_speed MODEL.gguf [THREADS] [PROMPT] [ANSWER] [POSITIONS OF THE CACHE] [WITHOUT]
//!
//! What is not wanted, `streams8` or `replay`, may be named last, with a comma between the two.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program"
)]

use std::sync::Arc;
use std::time::Instant;

use lemma_llm::engine::{Engine, Event, Finish, Limits, Request, RequestId};
use lemma_llm::gguf::Gguf;
use lemma_llm::replay::{Verdict, replay};
use lemma_llm::sampling::Sampling;
use lemma_llm::{Cache, Chunk, Compute, FileMap, Model, PageId, Scratch};

/// Seconds of processor time that this process has used, all threads together.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let own: f64 = stat
        .split(' ')
        .next()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0.0);
    own * 1e-9
}

/// Memory in use (`VmRSS`), or the most that ever was (`VmHWM`), in MiB.
fn memory(which: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// The least seconds of some runs: by the clock, and of this thread's processor time.
fn best(times: usize, mut run: impl FnMut()) -> [f64; 2] {
    let mut best = [f64::MAX; 2];
    for _ in 0..times {
        let (start, before) = (Instant::now(), cpu());
        run();
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        best[1] = best[1].min(cpu() - before);
    }
    best
}

fn prompt(len: usize, stream: usize) -> Vec<u32> {
    (0..len)
        .map(|i| 300 + ((i + 31 * stream) * 7919 % 7000) as u32)
        .collect()
}

/// Requests and the tokens of their answers.
type Answers = Vec<(Request, Vec<u32>)>;

struct Bench {
    model: Arc<Model>,
    threads: usize,
    prompt: usize,
    answer: usize,
    /// Pages of the cache.
    pages: usize,
}

impl Bench {
    fn forward(&self) -> ([f64; 2], [f64; 2]) {
        let c = Compute::new(self.threads);
        let mut cache = Cache::new(self.model.config(), self.pages);
        let pages: Vec<PageId> = cache.ids().collect();
        let mut scratch = Scratch::default();
        let tokens = prompt(self.prompt, 0);
        let mut run = |tokens: &[u32], position: usize| -> u32 {
            let chunk = Chunk {
                tokens,
                position,
                pages: &pages,
                logits: 1,
            };
            let logits = self.model.forward(&c, &mut cache, &[chunk], &mut scratch);
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            logits.iter().position(|l| *l == best).unwrap() as u32
        };
        let prefill = best(3, || {
            run(&tokens, 0);
        });
        let mut next = run(&tokens, 0);
        let mut position = tokens.len();
        // The system counts processor time too coarsely for single steps: their mean counts.
        let before = cpu();
        let [least, _] = best(self.answer, || {
            next = run(&[next], position);
            position += 1;
        });
        let mean = (cpu() - before) / self.answer as f64;
        (prefill, [least, mean])
    }

    /// Seconds for tokens of all streams after their prompts are read, and the answers.
    /// Also the memory in use when all are done, and nothing is let go of yet.
    fn streams(&self, count: usize) -> ([f64; 2], Answers, f64) {
        let mut engine = Engine::new(
            self.model.clone(),
            Compute::new(self.threads),
            None,
            Limits {
                pages: self.pages,
                ..Limits::default()
            },
        );
        let mut requests = Vec::new();
        for stream in 0..count {
            let sampling = Sampling::greedy();
            let mut request = Request::new(
                &self.model,
                prompt(self.prompt, stream),
                self.answer,
                sampling,
            );
            request.stop_tokens.clear();
            requests.push((engine.submit(request.clone()).unwrap(), request, Vec::new()));
        }
        let mut spent = [0.0; 2];
        while !engine.is_idle() {
            let all = requests
                .iter()
                .all(|(_, _, answer): &(RequestId, Request, Vec<u32>)| !answer.is_empty());
            let (start, before) = (Instant::now(), cpu());
            let events = engine.step();
            if all {
                spent[0] += start.elapsed().as_secs_f64();
                spent[1] += cpu() - before;
            }
            for event in events {
                if let Event::Token { id, choice, .. } = event {
                    let entry = requests.iter_mut().find(|r| r.0 == id).unwrap();
                    entry.2.push(choice.token);
                }
            }
        }
        (
            spent,
            requests
                .into_iter()
                .map(|(_, request, answer)| (request, answer))
                .collect(),
            memory("VmRSS"),
        )
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().expect("the path of a GGUF file");
    let mut number = |default| {
        args.next()
            .map_or(default, |s| s.parse().expect("a number"))
    };
    let (threads, prompt, answer) = (number(1), number(128), number(64).max(2));
    let positions = number(8 * (prompt + answer + 64));
    let without = args.next().unwrap_or_default();
    let start = Instant::now();
    let model = {
        let file = FileMap::open(path.as_ref()).expect("a readable file");
        let file = Gguf::map(&file).expect("a GGUF file");
        Arc::new(Model::from_parsed(&Compute::new(threads).threads, &file).expect("a model"))
    };
    let load = start.elapsed().as_secs_f64();
    let peak = memory("VmHWM");
    let bench = Bench {
        model,
        threads,
        prompt,
        answer,
        pages: positions.div_ceil(16),
    };
    let (prefill, decode) = bench.forward();
    let (one, mut served, alone) = bench.streams(1);
    let per = |work: usize, [clock, processor]: [f64; 2]| {
        format!(
            "[{:.2},{:.2}]",
            work as f64 / clock,
            work as f64 / processor
        )
    };
    let mut entries = vec![
        ("load_ms", format!("{:.0}", load * 1e3)),
        ("load_peak_mib", format!("{peak:.0}")),
        (
            "weights_mib",
            format!("{:.1}", bench.model.bytes() as f64 / 1048576.0),
        ),
        ("prefill", per(prompt, prefill)),
        ("decode", per(1, decode)),
        ("stream", per(answer - 1, one)),
    ];
    let mut used = alone;
    if !without.contains("streams8") {
        let (eight, _, memory) = bench.streams(8);
        entries.push(("streams8", per(8 * (answer - 1), eight)));
        used = memory;
    }
    entries.push(("memory", format!("[{used:.0}]")));
    if !without.contains("replay") {
        let (request, tokens) = served.remove(0);
        let compute = Compute::new(threads);
        let again = best(2, || {
            let verdict = replay(
                &bench.model,
                &compute,
                None,
                &request,
                None,
                &tokens,
                Finish::Length,
            );
            assert_eq!(verdict, Ok(Verdict::Same));
        });
        let whole = answer as f64 / (answer - 1) as f64;
        let [clock, processor] = [0, 1].map(|i| 1e3 * (prefill[i] + one[i] * whole));
        entries.push((
            "replay_ms",
            format!("[{:.1},{:.1}]", again[0] * 1e3, again[1] * 1e3),
        ));
        entries.push(("generate_ms", format!("[{clock:.1},{processor:.1}]")));
    }
    let entries: Vec<String> = entries
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    println!("{{{}}}", entries.join(","));
}
