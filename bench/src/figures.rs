//! Figures and how they are printed.

/// One measured number beside its goal.
pub(crate) struct Figure<'a> {
    name: &'a str,
    value: f64,
    unit: &'a str,
    goal: &'a str,
}

impl<'a> Figure<'a> {
    pub(crate) fn new(name: &'a str, value: f64, unit: &'a str, goal: &'a str) -> Self {
        Self {
            name,
            value,
            unit,
            goal,
        }
    }

    pub(crate) fn print(&self) {
        let digits = if self.value.abs() < 100.0 { 2 } else { 0 };
        println!(
            "{:<58} {:>10.digits$} {:<11} {}",
            self.name, self.value, self.unit, self.goal
        );
    }
}

/// The middle value.
///
/// # Panics
/// If there are no values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
