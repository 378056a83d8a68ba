//! How the process ends.

use std::process::ExitCode;

/// The exit codes, those of `sysexits.h` where it has a word for the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Stopped as asked, or done.
    Done,
    /// A check had a negative answer.
    Negative,
    /// Wrong usage or configuration.
    Usage,
    /// A service that the start needs cannot be reached.
    Unavailable,
    /// A defect of the program.
    Defect,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Negative => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Defect => 70,
        }
    }

    /// Ends the process here and now; nothing is flushed and nobody is told.
    pub fn at_once(self) -> ! {
        std::process::exit(i32::from(self.code()))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Makes every panic, on whatever thread or task, the end of the process with code 70. A task that dies alone would
/// leave a node that looks alive and has lost part of its state.
pub fn on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        Exit::Defect.at_once();
    }));
}
