//! Files of `hv bench`: results that are read, and pages that are written.

use super::{BenchError, print};
use crate::args::{CompareArgs, ReportArgs, TableFormat};
use hv_bench::compare::{self, Compared, Named};
use hv_bench::report;
use hv_bench::result::Results;
use hv_bench::table::Style;
use hv_host::escape::escape;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Exit code of `hv bench compare --check` when an operation is slower.
const SLOWER: u8 = 1;

/// Most files side by side.
const MOST: usize = 16;

/// A result with the name that it is shown by.
pub(super) struct FromFile {
    name: String,
    pub(super) results: Results,
}

impl FromFile {
    pub(super) fn read(path: &Path) -> Result<FromFile, compare::ReadError> {
        Ok(FromFile { name: escape(path).to_string(), results: compare::read(path)? })
    }

    pub(super) fn named(&self) -> Named<'_> {
        Named { name: &self.name, results: &self.results }
    }
}

/// `hv bench compare`.
pub(super) fn compare(args: &CompareArgs) -> Result<u8, Box<dyn Error>> {
    if args.files.len() > MOST {
        return Err(BenchError::Files(MOST).into());
    }
    let files = args.files.iter().map(|path| FromFile::read(path)).collect::<Result<Vec<_>, _>>()?;
    let runs: Vec<Named<'_>> = files.iter().map(FromFile::named).collect();
    let compared = Compared::of(&runs, args.anyway)?;
    let style = Style { colour: crate::colour::on(&std::io::stdout()) };
    print(&match args.format {
        TableFormat::Table => compare::table(&compared, style),
        TableFormat::Json => serde_json::to_string_pretty(&compared)? + "\n",
        TableFormat::Csv => compare::csv(&compared),
        TableFormat::Markdown => compare::markdown(&compared),
    })?;
    Ok(if args.check && compared.has_slower() { SLOWER } else { 0 })
}

/// `hv bench report`.
pub(super) fn report(args: &ReportArgs) -> Result<u8, Box<dyn Error>> {
    let new = FromFile::read(&args.file)?;
    let old = args.compare.as_deref().map(FromFile::read).transpose()?;
    let compared = old.map(|old| Compared::of(&[old.named(), new.named()], false)).transpose()?;
    ReportFile::open("--output", &args.output)?.write(&report::page(&new.results, compared.as_ref()))?;
    Ok(0)
}

/// The file of a page, open before anything is measured. Not changed if the run fails.
pub(super) struct ReportFile {
    option: &'static str,
    path: PathBuf,
    file: File,
    /// The file is new: it is removed if the run fails.
    new: bool,
}

impl ReportFile {
    pub(super) fn open(option: &'static str, path: &Path) -> Result<ReportFile, BenchError> {
        let new = !path.exists();
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|source| BenchError::Report { option, path: path.into(), source })?;
        Ok(ReportFile { option, path: path.into(), file, new })
    }

    pub(super) fn write(mut self, page: &str) -> Result<(), BenchError> {
        let (option, path) = (self.option, self.path.clone());
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(page.as_bytes()));
        written.map_err(|source| BenchError::Report { option, path, source })?;
        self.new = false;
        Ok(())
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
