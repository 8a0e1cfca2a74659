//! The one place that writes to the terminal.
//!
//! Standard output carries the result and nothing else; everything else goes to standard error. `--json` changes the form of
//! the result only; `--quiet` silences notes, never results or errors. Colour never carries meaning alone.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal as _, Write as _},
};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::{
    error::{CommandError, CommandResult},
    exit::ExitCode,
    table::Table,
    text::harmless_lines,
};

/// The styles of the whole program.
pub mod styles {
    use super::{AnsiColor, Style};

    /// Errors.
    pub const ERROR: Style = AnsiColor::Red.on_default().bold();
    /// Warnings.
    pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();
    /// Hints, paths and literals.
    pub const HINT: Style = AnsiColor::Cyan.on_default();
    /// Success.
    pub const GOOD: Style = AnsiColor::Green.on_default().bold();
    /// Commands to type.
    pub const COMMAND: Style = AnsiColor::Green.on_default();
    /// Headings.
    pub const HEADING: Style = Style::new().bold();
    /// What matters less.
    pub const DIM: Style = Style::new().dimmed();
    /// Values of command line arguments, in help texts.
    pub const PLACEHOLDER: Style = AnsiColor::Cyan.on_default();
}

/// `value` in `style`; streams that do not show colour strip it.
pub fn paint<D: Display>(style: Style, value: D) -> impl Display {
    Painted { style, value }
}

struct Painted<D> {
    style: Style,
    value: D,
}

impl<D: Display> Display for Painted<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}{}",
            self.style,
            self.value,
            self.style.render_reset()
        )
    }
}

/// What the user asked of the output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// One JSON document instead of text.
    pub json: bool,
    /// No notes.
    pub quiet: bool,
    /// No progress bars.
    pub no_progress: bool,
}

/// Standard output and standard error, and how to write to them.
#[derive(Debug)]
pub struct Shell {
    options: Options,
    out: AutoStream<io::Stdout>,
    err: AutoStream<io::Stderr>,
    out_is_terminal: bool,
}

impl Shell {
    /// A shell on the process's streams.
    #[must_use]
    pub fn new(options: Options, color: ColorChoice) -> Self {
        color.write_global();
        Self {
            options,
            out: AutoStream::auto(io::stdout()),
            err: AutoStream::auto(io::stderr()),
            out_is_terminal: io::stdout().is_terminal(),
        }
    }

    /// What the user asked of the output.
    #[must_use]
    pub const fn options(&self) -> Options {
        self.options
    }

    /// Whether the result is to be JSON.
    #[must_use]
    pub const fn json(&self) -> bool {
        self.options.json
    }

    /// Whether progress may be shown by redrawing lines.
    #[must_use]
    pub fn shows_progress(&self) -> bool {
        let Options {
            json,
            quiet,
            no_progress,
        } = self.options;
        !json
            && !quiet
            && !no_progress
            && io::stderr().is_terminal()
            && std::env::var_os("CI").is_none()
    }

    /// Writes a line of the result.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn line(&mut self, line: impl Display) -> CommandResult {
        writeln!(self.out, "{line}").map_err(output_error)
    }

    /// Writes raw bytes of the result.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn bytes(&mut self, bytes: &[u8]) -> CommandResult {
        // Not through the colour filter: these are data.
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(output_error)
    }

    /// Writes a piece of a text as it comes: exact, but on a terminal nothing that could steer it.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn piece(&mut self, text: &str) -> CommandResult {
        if self.out_is_terminal {
            return self.bytes(harmless_lines(text).as_bytes());
        }
        self.bytes(text.as_bytes())
    }

    /// Writes the result as one JSON document: indented on a terminal, one line otherwise.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn document(&mut self, value: &impl Serialize) -> CommandResult {
        let text = if self.out_is_terminal {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        self.line(text.map_err(|error| {
            CommandError::failed("the result has no form in JSON").because(&error)
        })?)
    }

    /// Writes one JSON document on one line, whatever reads it.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn json_line(&mut self, value: &impl Serialize) -> CommandResult {
        let text = serde_json::to_string(value);
        self.line(text.map_err(|error| {
            CommandError::failed("the result has no form in JSON").because(&error)
        })?)?;
        self.out.flush().map_err(output_error)
    }

    /// Writes a table: aligned on a terminal, tab-separated values otherwise.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn table(&mut self, table: &Table) -> CommandResult {
        let text = if self.out_is_terminal {
            table.aligned()
        } else {
            table.tsv()
        };
        write!(self.out, "{text}").map_err(output_error)
    }

    /// Tells something beside the result.
    pub fn note(&mut self, message: impl Display) {
        if !self.options.quiet {
            // Nothing can be done about a closed standard error, and the result matters more.
            let _ = writeln!(self.err, "{message}");
        }
    }

    /// Warns.
    pub fn warning(&mut self, message: impl Display) {
        let _ = writeln!(self.err, "{}: {message}", paint(styles::WARNING, "warning"));
    }

    /// Gives a hint beside the result.
    pub fn hint(&mut self, message: impl Display) {
        self.note(format_args!("  {}: {message}", paint(styles::HINT, "hint")));
    }

    /// Shows an error with its causes and hints. A broken pipe is silent.
    pub fn error(&mut self, error: &CommandError) {
        if error.code() == ExitCode::BrokenPipe {
            return;
        }
        let _ = self.try_error(error);
    }

    fn try_error(&mut self, error: &CommandError) -> io::Result<()> {
        let heading = if error.code() == ExitCode::Internal {
            "internal error"
        } else {
            "error"
        };
        writeln!(
            self.err,
            "{}: {}",
            paint(styles::ERROR, heading),
            error.message()
        )?;
        for cause in error.causes() {
            writeln!(self.err, "  {}: {cause}", paint(styles::DIM, "caused by"))?;
        }
        for hint in error.hints() {
            writeln!(self.err, "  {}: {hint}", paint(styles::HINT, "hint"))?;
        }
        self.err.flush()
    }
}

fn output_error(error: io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CommandError::new(ExitCode::BrokenPipe, "standard output was closed")
    } else {
        CommandError::failed("can not write to standard output").because(&error)
    }
}
