//! `hv doctor`: what this host offers.

use super::args::{DoctorArgs, Format};
use hv_doctor as doctor;
use hv_doctor::text;
use std::error::Error;
use std::io::{ErrorKind, Write};

/// Looks, prints, and returns 0 if guests can run, else 1.
pub(super) fn run(args: DoctorArgs) -> Result<u8, Box<dyn Error>> {
    let report = doctor::examine();
    let printed = match args.format {
        Format::Text => {
            let colour = super::colour::on(&std::io::stdout());
            text::table(&report, colour)
        }
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    match std::io::stdout().write_all(printed.as_bytes()) {
        // The answer is in the exit code as well.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if report.can_run { 0 } else { super::exit::NO_GUESTS })
}
