//! A loaded model: imported, checked, prepared, ready to run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
#[cfg(not(target_arch = "wasm32"))]
use std::{cell::Cell, path::Path};

#[cfg(not(target_arch = "wasm32"))]
use lemma_kernels::FileMap;
use lemma_kernels::{Isa, Threads};
use lemma_types::Digest;
use lemma_types::tensor::{Dim, TensorData, TensorSpec};

use crate::dynamic::{Loaded, Machine};
#[cfg(not(target_arch = "wasm32"))]
use crate::error::OpenError;
use crate::error::{ImportError, RunError};
use crate::exec::{self, Arena};
use crate::files::Files;
use crate::graph::{Graph, Ref};
use crate::limits::Limits;
use crate::operator::{Eval, Operands, Prepared};
use crate::plan::{Plan, failed};
use crate::prepare::{Folded, fold, prepare};
use crate::tensor::{Tensor, element_count};

/// A model that can be run. Cheap to share behind an `Arc`; runs do not disturb each other.
///
/// It keeps the memory of its last run, which [`RunOptions::memory`] bounds, and its threads, asleep, for
/// the next one.
pub struct Model {
    graph: Graph,
    /// Operators on constants alone, computed once.
    folded: Folded,
    /// Constant operands arranged for the kernels.
    prepared: Vec<Option<Prepared>>,
    plans: Mutex<Plans>,
    /// Memory of the last run, for the next.
    arena: Mutex<Option<Arena>>,
    /// Threads of the last run, for the next.
    threads: Mutex<Option<Arc<Threads>>>,
}

/// Plans by input shapes.
type Plans = BTreeMap<Vec<Vec<usize>>, Arc<Plan>>;

/// Plans that are kept; with more different shapes than this they are made anew.
const PLANS: usize = 32;

/// Bytes that are copied from a mapped file before its pages are handed back.
#[cfg(not(target_arch = "wasm32"))]
const RELEASE: u64 = 2 << 20;

/// How to run a model. None of it changes a bit of a result.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Instruction set; the fastest of this machine by default.
    pub isa: Isa,
    /// Threads that one operator may use.
    pub threads: usize,
    /// Bytes that a run may hold at any time besides the model's constants and its inputs.
    pub memory: u64,
    /// Operations (see [`Model::cost`]) that a run may take.
    pub cost: u64,
    /// Whether to give the digest of every operator's outputs.
    pub trace: bool,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            isa: Isa::detect(),
            threads: 1,
            memory: 4 << 30,
            cost: u64::MAX,
            trace: false,
        }
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Run {
    /// The outputs, in the order of the signature.
    pub outputs: Vec<Tensor>,
    /// Operations that the run took by definition, see [`Model::cost`].
    pub cost: u64,
    /// With [`RunOptions::trace`], the tensor digest of every output of every operator, in
    /// canonical order.
    pub trace: Option<Vec<Digest>>,
}

impl Model {
    /// Imports an ONNX model, checks it, and prepares it.
    ///
    /// `files` are the files beside the model, in which large models keep their weights. Bytes that are
    /// given by value are freed before weights are arranged for the kernels. [`open`](Model::open) holds a
    /// file's weights only once.
    ///
    /// # Errors
    /// When the bytes are no model, exceed the limits, or use something that is not supported.
    pub fn load(
        bytes: impl AsRef<[u8]>,
        files: &dyn Files,
        limits: &Limits,
    ) -> Result<Model, ImportError> {
        let graph = crate::onnx::import(bytes.as_ref(), files, limits, &|_| {})?;
        drop(bytes);
        Model::of(graph, limits)
    }

    /// [`load`](Model::load) of a file.
    ///
    /// The file is mapped: its weights are copied from the system's cache, one after the other, and held once.
    /// Nobody may change the file until this returns (see [`FileMap`]); files of a content store never are.
    /// The root is that of the weights that were copied, and those are the ones that are run, so the root of a
    /// model tells what it computes even where somebody did.
    ///
    /// # Errors
    /// As [`Model::load`], or when the file cannot be mapped.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &Path, files: &dyn Files, limits: &Limits) -> Result<Model, OpenError> {
        let map = FileMap::open(path).map_err(OpenError::File)?;
        // All of it: a page that is read brings others along, before and behind.
        let since = Cell::new(0);
        let copied = |bytes: u64| {
            since.set(since.get() + bytes);
            if since.get() >= RELEASE {
                since.set(0);
                map.release(&map);
            }
        };
        let graph = crate::onnx::import(&map, files, limits, &copied)?;
        drop(map);
        Ok(Model::of(graph, limits)?)
    }

    /// Prepares a graph.
    pub(crate) fn of(mut graph: Graph, limits: &Limits) -> Result<Model, ImportError> {
        let folded = fold(&graph, limits)?;
        let prepared = prepare(&mut graph, &folded, limits);
        Ok(Model {
            graph,
            folded,
            prepared,
            plans: Mutex::default(),
            arena: Mutex::default(),
            threads: Mutex::default(),
        })
    }

    /// The signature's inputs, in the order of the file.
    #[must_use]
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.graph.inputs
    }

    /// The signature's outputs, in the order of the file.
    #[must_use]
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.graph.outputs
    }

    /// The graph root: the commitment to what this model computes (see [`crate::commit`]).
    #[must_use]
    pub fn root(&self) -> Digest {
        self.graph.root
    }

    /// The number of operators of the canonical graph.
    #[must_use]
    pub fn operators(&self) -> usize {
        self.graph.nodes.len()
    }

    /// Elements of all constants of the canonical graph: the model's parameters.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.graph.constants.iter().map(|c| c.ty.len() as u64).sum()
    }

    /// Name (with version) and label of every operator, in canonical order.
    pub fn describe(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.graph.nodes.iter().map(|n| (n.op.name(), &*n.label))
    }

    /// Operations of a run on inputs of these shapes, in the order of the signature.
    ///
    /// The count follows from graph and shapes alone: multiply-accumulates of products and
    /// convolutions, elements read by reductions and window positions read by pooling, and one for
    /// each element that any other operator makes. Changes of shape alone are free, as are
    /// operators on constants, which run once when a model is loaded.
    ///
    /// # Errors
    /// When the shapes do not fit the signature or the operators.
    pub fn cost(&self, shapes: &[Vec<usize>]) -> Result<u64, RunError> {
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        self.check_shapes(&shapes)?;
        if let Some(node) = self.graph.nodes.iter().find(|node| node.dynamic) {
            return Err(RunError::DependsOnData {
                op: node.op.name().to_owned(),
                node: node.label.to_string(),
            });
        }
        Ok(self.plan(&shapes)?.cost)
    }

    /// Runs the model on named inputs.
    ///
    /// NaN and infinities are data like any other; every result is defined to the bit.
    ///
    /// # Errors
    /// When the inputs do not fit the signature, the run would exceed what `options` allow, or an
    /// operator does not apply to the values (an index out of range, an integer divided by zero).
    pub fn run(&self, inputs: &[(&str, Tensor)], options: &RunOptions) -> Result<Run, RunError> {
        let inputs = self.arrange(inputs)?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        self.check_shapes(&shapes)?;
        if self.graph.dynamic {
            return self.run_dynamic(&inputs, options);
        }
        let plan = self.plan(&shapes)?;
        let (needed, peak) = if options.trace {
            (plan.memory, plan.peak)
        } else {
            plan.program.memory(options.threads)
        };
        if needed > options.memory {
            return Err(RunError::Memory {
                node: self.graph.nodes[peak].label.to_string(),
                needed,
                limit: options.memory,
            });
        }
        if plan.cost > options.cost {
            return Err(RunError::Cost {
                needed: plan.cost,
                limit: options.cost,
            });
        }
        if options.trace {
            return self.execute(&plan, &inputs, options);
        }
        self.carry_out(&plan, &inputs, options)
    }

    /// Runs the model on tensors in wire form; the outputs have the signature's order and names.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn infer(
        &self,
        inputs: &[TensorData],
        options: &RunOptions,
    ) -> Result<Vec<TensorData>, RunError> {
        let inputs = inputs
            .iter()
            .map(|data| {
                let tensor = Tensor::from_data(data).map_err(|error| RunError::Input {
                    name: data.name().to_owned(),
                    field: "data",
                    reason: error.to_string(),
                })?;
                Ok((data.name(), tensor))
            })
            .collect::<Result<Vec<_>, RunError>>()?;
        let run = self.run(&inputs, options)?;
        self.outputs()
            .iter()
            .zip(run.outputs)
            .map(|(spec, tensor)| {
                tensor
                    .to_data(&spec.name)
                    .map_err(|error| RunError::Output {
                        name: spec.name.clone(),
                        reason: error.to_string(),
                    })
            })
            .collect()
    }

    /// The elements of the constants, those too that operators hold packed; none for one that nothing reads
    /// any more.
    pub(crate) fn constants(&self) -> Vec<Option<Tensor>> {
        let mut tensors: Vec<Option<Tensor>> = self
            .graph
            .constants
            .iter()
            .map(|c| c.tensor.clone())
            .collect();
        for (node, prepared) in self.graph.nodes.iter().zip(&self.prepared) {
            if let (Some(prepared), Some(place)) = (prepared, node.op.packed())
                && let Some(Ref::Constant(i)) = node.inputs[place]
                && tensors[i].is_none()
            {
                tensors[i] = node.op.unpack(prepared, &self.graph.constants[i].ty);
            }
        }
        tensors
    }

    /// What was made of the constants of each operator.
    #[cfg(test)]
    pub(crate) fn prepared(&self) -> &[Option<Prepared>] {
        &self.prepared
    }

    /// The canonical graph.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Puts the inputs into the order of the signature.
    pub(crate) fn arrange<'t>(
        &self,
        given: &'t [(&str, Tensor)],
    ) -> Result<Vec<&'t Tensor>, RunError> {
        let specs = self.inputs();
        let expected = || {
            let names: Vec<String> = specs.iter().map(|s| format!("`{}`", s.name)).collect();
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        let mut arranged: Vec<Option<&Tensor>> = vec![None; specs.len()];
        for (name, tensor) in given {
            let Some(place) = specs.iter().position(|s| s.name == *name) else {
                return Err(RunError::UnknownInput {
                    name: (*name).to_owned(),
                    expected: expected(),
                });
            };
            if arranged[place].replace(tensor).is_some() {
                return Err(RunError::RepeatedInput {
                    name: (*name).to_owned(),
                });
            }
            if tensor.dtype() != specs[place].dtype {
                return Err(RunError::Input {
                    name: (*name).to_owned(),
                    field: "datatype",
                    reason: format!(
                        "is {}, the model takes {}",
                        tensor.dtype(),
                        specs[place].dtype
                    ),
                });
            }
        }
        let missing = |spec: &TensorSpec| RunError::MissingInput {
            name: spec.name.clone(),
            expected: expected(),
        };
        arranged
            .into_iter()
            .zip(specs)
            .map(|(tensor, spec)| tensor.ok_or_else(|| missing(spec)))
            .collect()
    }

    /// Compares shapes with the signature; a symbol stands for one size wherever it occurs.
    fn check_shapes(&self, shapes: &[&[usize]]) -> Result<(), RunError> {
        let specs = self.inputs();
        let mut bound: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        if shapes.len() != specs.len() {
            return Err(RunError::Count {
                found: shapes.len(),
                expected: specs.len(),
            });
        }
        for (spec, shape) in specs.iter().zip(shapes) {
            let wrong = |reason: String| RunError::Input {
                name: spec.name.clone(),
                field: "shape",
                reason,
            };
            let declared = || {
                let dims: Vec<String> = spec.shape.iter().map(Dim::to_string).collect();
                format!("[{}]", dims.join(", "))
            };
            if shape.len() != spec.shape.len() {
                return Err(wrong(format!(
                    "is {shape:?}, the model takes {}",
                    declared()
                )));
            }
            let bytes = element_count(shape).and_then(|n| n.checked_mul(spec.dtype.size()));
            if bytes.is_none_or(|n| n > isize::MAX as usize) {
                return Err(wrong(format!("is {shape:?}, which overflows")));
            }
            for (axis, (dim, &size)) in spec.shape.iter().zip(*shape).enumerate() {
                match dim {
                    Dim::Fixed(wanted) if *wanted != size as u64 => {
                        return Err(wrong(format!(
                            "is {shape:?}, the model takes {}",
                            declared()
                        )));
                    }
                    Dim::Fixed(_) => {}
                    Dim::Symbol(symbol) if size == 0 => {
                        return Err(wrong(format!(
                            "is {shape:?}: dimension {axis} (`{symbol}`) must be at least 1"
                        )));
                    }
                    Dim::Symbol(symbol) => {
                        let (first, whose) = *bound.entry(symbol).or_insert((size, &spec.name));
                        if first != size {
                            return Err(wrong(format!(
                                "is {shape:?}: `{symbol}` is {size} in dimension {axis}, but {first} in input `{whose}`"
                            )));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The plan for these shapes, made once.
    pub(crate) fn plan(&self, shapes: &[&[usize]]) -> Result<Arc<Plan>, RunError> {
        let key: Vec<Vec<usize>> = shapes.iter().map(|s| s.to_vec()).collect();
        let plans = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans().get(&key) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Plan::new(
            &self.graph,
            &self.folded,
            &self.prepared,
            shapes,
        )?);
        let mut plans = plans();
        if plans.len() >= PLANS {
            plans.clear();
        }
        plans.insert(key, plan.clone());
        Ok(plan)
    }

    /// A run as the program of the plan has it.
    fn carry_out(
        &self,
        plan: &Plan,
        inputs: &[&Tensor],
        options: &RunOptions,
    ) -> Result<Run, RunError> {
        let threads = self.threads(options.threads.max(1));
        let context = exec::Context {
            graph: &self.graph,
            planned: &plan.steps,
            prepared: &self.prepared,
            inputs,
            outside: &[],
            isa: options.isa,
            threads: &threads,
        };
        let lock = || self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        let mut arena = lock().take().unwrap_or_default();
        let outputs = exec::run(&plan.program, &context, &mut arena);
        *lock() = Some(arena);
        Ok(Run {
            outputs: outputs?,
            cost: plan.cost,
            trace: None,
        })
    }

    /// A pool of so many threads, that of the last run if it fits.
    fn threads(&self, count: usize) -> Arc<Threads> {
        let mut kept = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(threads) if threads.count() == count => threads.clone(),
            _ => kept.insert(Arc::new(Threads::new(count))).clone(),
        }
    }

    /// A run whose shapes depend on data.
    fn run_dynamic(&self, inputs: &[&Tensor], options: &RunOptions) -> Result<Run, RunError> {
        let threads = self.threads(options.threads.max(1));
        let mut machine = Machine::new(options.isa, threads, options.memory, options.cost);
        let mut trace = options.trace.then(Vec::new);
        let loaded = Loaded {
            folded: &self.folded,
            prepared: &self.prepared,
        };
        let outputs = machine.graph(&self.graph, Some(&loaded), inputs, trace.as_mut())?;
        self.check_outputs(inputs, &outputs)?;
        Ok(Run {
            outputs,
            cost: machine.spent(),
            trace,
        })
    }

    /// What the signature says of outputs has to hold of those that a run gave.
    fn check_outputs(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<(), RunError> {
        let mut bound: BTreeMap<&str, usize> = BTreeMap::new();
        let specs = self.inputs().iter().chain(self.outputs());
        let found = inputs.iter().copied().chain(outputs);
        for (spec, tensor) in specs.zip(found) {
            for (axis, (dim, &size)) in spec.shape.iter().zip(tensor.shape()).enumerate() {
                let wanted = match dim {
                    Dim::Fixed(n) => *n,
                    Dim::Symbol(name) => *bound.entry(name).or_insert(size) as u64,
                };
                if wanted != size as u64 {
                    let reason = format!(
                        "dimension {axis} (`{dim}`) is {size}, the signature makes it {wanted}"
                    );
                    return Err(RunError::Output {
                        name: spec.name.clone(),
                        reason,
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether a shape depends on data: then memory and cost of a run are known only afterwards,
    /// and [`Model::cost`] cannot tell.
    #[must_use]
    pub fn is_dynamic(&self) -> bool {
        self.graph.dynamic
    }

    /// A run operator by operator, each with outputs of its own: what a trace needs.
    fn execute(
        &self,
        plan: &Plan,
        inputs: &[&Tensor],
        options: &RunOptions,
    ) -> Result<Run, RunError> {
        let threads = self.threads(options.threads.max(1));
        let mut values: Vec<Vec<Tensor>> = Vec::with_capacity(plan.steps.len());
        let mut trace = options.trace.then(Vec::new);
        for (index, (node, step)) in self.graph.nodes.iter().zip(&plan.steps).enumerate() {
            let outputs = match &step.known {
                Some(known) => known.clone(),
                None => {
                    let operands: Vec<Option<&Tensor>> = node
                        .inputs
                        .iter()
                        .map(|i| i.and_then(|source| self.operand(source, inputs, &values)))
                        .collect();
                    let eval = Eval {
                        isa: options.isa,
                        threads: &threads,
                        inputs: Operands(&operands),
                        outputs: &step.outputs,
                        prepared: self.prepared[index].as_ref(),
                    };
                    node.op.eval(&eval).map_err(|source| failed(node, source))?
                }
            };
            debug_assert!(
                step.known.is_some()
                    || outputs
                        .iter()
                        .map(Tensor::shape)
                        .eq(step.outputs.iter().map(|o| &o.shape[..]))
            );
            if let Some(trace) = &mut trace {
                trace.extend(outputs.iter().map(Tensor::digest));
            }
            values.push(outputs);
            for &freed in &step.free {
                values[freed] = Vec::new();
            }
        }
        let outputs = self.graph.output_refs.iter();
        Ok(Run {
            outputs: outputs
                .map(|&source| self.operand(source, inputs, &values).cloned())
                .map(|output| {
                    output.unwrap_or_else(|| unreachable!("constants given out are kept"))
                })
                .collect(),
            cost: plan.cost,
            trace,
        })
    }

    /// An operand, unless it is a constant that its readers hold packed.
    fn operand<'t>(
        &'t self,
        source: Ref,
        inputs: &[&'t Tensor],
        values: &'t [Vec<Tensor>],
    ) -> Option<&'t Tensor> {
        match source {
            Ref::Input(i) => Some(inputs[i]),
            Ref::Constant(i) => self.graph.constants[i].tensor.as_ref(),
            Ref::Node(i, output) => Some(&values[i][output]),
        }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("root", &self.root())
            .field("inputs", &self.inputs())
            .field("outputs", &self.outputs())
            .field("operators", &self.operators())
            .finish_non_exhaustive()
    }
}

/// Checks and counts a model, without preparing it: the whole importer behind one call.
///
/// # Errors
/// As [`Model::load`].
pub fn import(bytes: &[u8], files: &dyn Files, limits: &Limits) -> Result<Digest, ImportError> {
    crate::onnx::import(bytes, files, limits, &|_| {}).map(|graph| graph.root)
}
