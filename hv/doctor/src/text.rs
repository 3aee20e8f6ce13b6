//! The table for people.

use super::{Report, State};

/// Columns of the names, and of what follows them.
const NAME: usize = 16;

impl State {
    /// Its mark in the table.
    pub fn mark(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Slower => "slower",
            State::Weaker => "weaker",
            State::Missing => "missing",
        }
    }

    fn colour(self) -> u8 {
        match self {
            State::Ok => 32,
            State::Slower | State::Weaker => 33,
            State::Missing => 31,
        }
    }
}

/// The report: for each finding a line with what is there, one with what it means, and one with the remedy.
pub fn table(report: &Report, colour: bool) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let mark = format!("{:<7}", finding.state.mark());
        let mark = if colour { format!("\x1b[{}m{mark}\x1b[0m", finding.state.colour()) } else { mark };
        text += &format!("{mark}  {:<NAME$}  {}\n", finding.name, finding.found);
        let indent = " ".repeat(7 + 2 + NAME + 2);
        text += &format!("{indent}{}\n", finding.means);
        if let Some(remedy) = &finding.remedy {
            text += &format!("{indent}→ {remedy}\n");
        }
    }
    text += match report.platform {
        Some("kvm") => "\nGuests can run here, on KVM.\n",
        Some(_) => "\nGuests can run here, in processes.\n",
        None => "\nGuests cannot run here.\n",
    };
    text
}
