//! Progress bars on a terminal; nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::shell::Shell;

/// A bar over bytes.
pub(crate) fn bytes(what: &'static str, total: u64, shell: &Shell) -> ProgressBar {
    let template = "{prefix} {bar:30.cyan/dim} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar(ProgressBar::new(total), template, shell).with_prefix(what)
}

/// A spinner beside a message.
pub(crate) fn spinner(message: &'static str, shell: &Shell) -> ProgressBar {
    let spinner = bar(
        ProgressBar::new_spinner(),
        "{spinner:.cyan} {msg} {elapsed:.dim}",
        shell,
    )
    .with_message(message);
    if shell.shows_progress() {
        spinner.enable_steady_tick(Duration::from_millis(100));
    }
    spinner
}

/// A bar over steps that nobody sees unless they take longer than a second.
pub(crate) fn steps(what: &'static str, shell: &Shell) -> ProgressBar {
    let template = "{prefix} {bar:30.cyan/dim} {pos}/{len} {msg} {elapsed:.dim}";
    let bar = bar(ProgressBar::new(0), template, shell).with_prefix(what);
    bar.set_draw_target(ProgressDrawTarget::hidden());
    bar
}

/// Moves such a bar on.
pub(crate) fn step(bar: &ProgressBar, shown: bool, done: usize, of: usize, now: &'static str) {
    if shown && bar.is_hidden() && bar.elapsed() > Duration::from_secs(1) {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    bar.set_length(of as u64);
    bar.set_position(done as u64);
    bar.set_message(now);
}

fn bar(bar: ProgressBar, template: &str, shell: &Shell) -> ProgressBar {
    if !shell.shows_progress() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // The templates are ours and tested; a broken one would only look plain.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_count_even_if_nobody_sees_them() {
        let shell = Shell::new(
            crate::shell::Options::default(),
            anstream::ColorChoice::Never,
        );
        let bar = bytes("uploading", 10, &shell);
        bar.inc(4);
        assert_eq!(bar.position(), 4);
        assert_eq!(spinner("waiting", &shell).message(), "waiting");
    }
}
