//! Comparisons for people (tables, Markdown) and for spreadsheets (CSV).

use super::{Change, Compared};
use crate::table::{Style, date, range, ratio_digits, time, time_range};
use hv_stats::{Estimate, Verdict};
use std::fmt::Write;

const NONE: &str = "–";

/// Rows of cells below a heading, of which the first is the head.
struct Section {
    title: &'static str,
    rows: Vec<Vec<String>>,
}

fn ratio_cell(ratio: &Option<Estimate>) -> String {
    ratio.as_ref().map_or(NONE.into(), |ratio| format!("{} {}", ratio_digits(ratio.median), range(ratio)))
}

fn change_cell(change: &Option<Change>) -> String {
    let Some(Change { ratio, verdict }) = change else { return NONE.into() };
    format!("{} × {}: {}", ratio_digits(ratio.median), range(ratio), verdict.words())
}

/// The name of a file without its folder and ending: heads of columns are narrow.
fn short(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.strip_suffix(".json").unwrap_or(file).to_owned()
}

fn sections(compared: &Compared) -> [Section; 2] {
    let names: Vec<String> = compared.files.iter().map(|file| short(&file.name)).collect();
    let changed = || names.iter().skip(1).map(|name| format!("{name} by {}", names[0]));
    let head = |first: &[&str]| {
        let first = first.iter().map(|cell| (*cell).to_owned());
        first.chain(names.iter().cloned()).chain(changed()).collect::<Vec<_>>()
    };
    let ratios = compared.ratios.iter().map(|row| {
        let cells = [row.name.clone(), row.against.clone()].into_iter();
        cells.chain(row.columns.iter().map(ratio_cell)).chain(row.changes.iter().map(change_cell)).collect()
    });
    let medians = compared.medians.iter().map(|row| {
        let median = |column: &Option<Estimate>| {
            column.as_ref().map_or(NONE.into(), |m| format!("{} ({})", time(m.median), time_range(m)))
        };
        let cells = [row.name.clone()].into_iter();
        cells.chain(row.columns.iter().map(median)).chain(row.changes.iter().map(ratio_cell)).collect()
    });
    [
        Section {
            title: "Ratios, with their 95 % intervals and verdicts",
            rows: [head(&["operation", "by"])].into_iter().chain(ratios).collect(),
        },
        Section {
            title: "Medians, without verdicts: they depend on the load of the host",
            rows: [head(&["operation"])].into_iter().chain(medians).collect(),
        },
    ]
}

/// What is below the tables.
fn footer(compared: &Compared) -> Vec<String> {
    let verdicts = compared.changes().count();
    let claims = compared.changes().filter(|change| change.verdict.claims()).count();
    let mut lines = Vec::new();
    if verdicts > 0 {
        lines.push(format!(
            "{claims} of {verdicts} ratios differ by 5 % or more, with an interval without 1; where nothing changed, chance makes up to one of 20 do so"
        ));
    }
    for file in &compared.files {
        if let Some(why) = &file.not_compared {
            lines.push(format!("{} is not compared: {why}", file.name));
        }
    }
    for missing in &compared.missing {
        lines.push(format!("not in {}: {}", missing.file, missing.operations.join(", ")));
    }
    lines
}

fn files(compared: &Compared) -> Vec<String> {
    let line = |file: &super::File| {
        let build = if file.build.is_empty() { "unknown" } else { &file.build };
        format!(
            "{}: hv {} (build {build}) · {} · {} · {} rounds or more of {} ms",
            file.name,
            file.version,
            date(file.time),
            file.cpu,
            file.rounds,
            file.round_ms
        )
    };
    compared.files.iter().map(line).collect()
}

/// A table for a terminal.
pub fn table(compared: &Compared, style: Style) -> String {
    let mut text = files(compared).join("\n") + "\n";
    for section in sections(compared).iter().filter(|section| section.rows.len() > 1) {
        let _ = writeln!(text, "\n{}", style.bold(section.title));
        let columns = section.rows[0].len();
        let width = |n: usize| section.rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &section.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| {
                let room = " ".repeat(width - cell.chars().count());
                emphasised(cell, style) + &room
            });
            let _ = writeln!(text, "  {}", cells.collect::<Vec<_>>().join("   ").trim_end());
        }
    }
    text.push('\n');
    footer(compared).iter().for_each(|line| text += &format!("{line}\n"));
    for note in &compared.notes {
        let _ = writeln!(text, "{} {note}", style.warning("note:"));
    }
    text
}

/// A cell with its verdict in colour, if it makes a claim.
fn emphasised(cell: &str, style: Style) -> String {
    match cell.rsplit_once(": ") {
        Some((_, word)) if word == Verdict::Faster.words() => style.paint("32", cell),
        Some((_, word)) if word == Verdict::Slower.words() => style.paint("31", cell),
        _ => cell.to_owned(),
    }
}

/// The same in Markdown.
pub fn markdown(compared: &Compared) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
    let list =
        |lines: &[String]| lines.iter().map(|line| format!("- {}\n", escaped(line))).collect::<String>();
    let mut text = list(&files(compared));
    for section in sections(compared).iter().filter(|section| section.rows.len() > 1) {
        let _ = writeln!(text, "\n### {}\n", section.title);
        for (n, row) in section.rows.iter().enumerate() {
            let cells: Vec<_> = row.iter().map(|cell| escaped(cell)).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if n == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
    }
    let below = [footer(compared), compared.notes.clone()].concat();
    if !below.is_empty() {
        text += &("\n".to_owned() + &list(&below));
    }
    text
}

/// A line for each figure of each file (RFC 4180): ratios are without unit, medians in nanoseconds; the change is against the first
/// file.
pub fn csv(compared: &Compared) -> String {
    let mut text = String::from(
        "figure,operation,against,file,value,low,high,n,change,change_low,change_high,verdict\n",
    );
    let mut line = |cells: [String; 4], value: &Estimate, change: Option<(&Estimate, &str)>| {
        let number = |value: f64| format!("{value:.6e}");
        let ends = |estimate: &Estimate| match estimate.interval {
            Some([low, high]) => [number(low), number(high)],
            None => [String::new(), String::new()],
        };
        let mut all: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
        all.push(number(value.median));
        all.extend(ends(value));
        all.push(value.n.to_string());
        match change {
            Some((change, verdict)) => {
                all.push(number(change.median));
                all.extend(ends(change));
                all.push(verdict.to_owned());
            }
            None => all.extend([const { String::new() }; 4]),
        }
        let _ = writeln!(text, "{}", all.join(","));
    };
    for row in &compared.ratios {
        for (n, (column, file)) in row.columns.iter().zip(&compared.files).enumerate() {
            let Some(value) = column else { continue };
            let change = n.checked_sub(1).and_then(|n| row.changes[n].as_ref());
            let change = change.map(|change| (&change.ratio, change.verdict.words()));
            line(["ratio".into(), row.name.clone(), row.against.clone(), file.name.clone()], value, change);
        }
    }
    for row in &compared.medians {
        for (n, (column, file)) in row.columns.iter().zip(&compared.files).enumerate() {
            let Some(value) = column else { continue };
            let change = n.checked_sub(1).and_then(|n| row.changes[n].as_ref());
            let change = change.map(|change| (change, Verdict::NotCompared.words()));
            line(["median_ns".into(), row.name.clone(), String::new(), file.name.clone()], value, change);
        }
    }
    text
}

/// A cell, in quotes if it needs them; one that a spreadsheet would take for a formula is text.
pub(super) fn quoted(cell: &str) -> String {
    let text =
        if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.into() };
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}
