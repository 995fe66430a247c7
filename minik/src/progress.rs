//! Progress of long operations: one plain line per step, with the time since the start.

use std::{
    cell::Cell,
    fmt::Display,
    io::{IsTerminal, Write, stderr},
    time::Instant,
};

/// Prints steps to standard error.
pub(crate) struct Progress {
    started: Instant,
    terminal: bool,
    /// Whether the terminal's last line is a step under way.
    open_line: Cell<bool>,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            terminal: stderr().is_terminal(),
            open_line: Cell::new(false),
        }
    }

    /// A step that is under way: shown on a terminal until the next line replaces it.
    pub(crate) fn doing(&self, what: impl Display) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K{} {what} ...", self.clock());
            self.open_line.set(true);
        }
    }

    /// A step that is done.
    pub(crate) fn done(&self, what: impl Display) {
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let _ = writeln!(stderr(), "{clear}{} {what}", self.clock());
        self.open_line.set(false);
    }

    fn clock(&self) -> String {
        format!("[{:6.2}s]", self.started.elapsed().as_secs_f64())
    }
}

impl Drop for Progress {
    /// A step that was not finished makes room for the error that comes next.
    fn drop(&mut self) {
        if self.open_line.get() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
