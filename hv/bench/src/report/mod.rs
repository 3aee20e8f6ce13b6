//! Results as one page: HTML with plots inside, without scripts, that loads nothing. Its data are in it, too.
#![forbid(unsafe_code)]

mod density;
mod lines;
mod plots;
mod rows;
mod svg;
mod tails;

#[cfg(test)]
pub(super) mod tests;

pub use density::page as density_page;

use super::compare::Compared;
use super::operation::Group;
use super::result::{Measurement, Results};
use super::table::{self as words, digits, percentile, rate, time, time_range};
use hv_stats::Verdict;
use serde::Serialize;
use std::fmt::Write;
use svg::escape;

/// The page; with a comparison, if one was asked for.
pub fn page(results: &Results, compared: Option<&Compared>) -> String {
    let mut sections: Vec<(String, String, String)> = Vec::new();
    let mut add = |id: &str, title: &str, html: String| {
        if !html.is_empty() {
            sections.push((id.into(), title.into(), html));
        }
    };
    add("changes", "Changes", compared.map(changes).unwrap_or_default());
    add("ratios", "Ratios", ratios(results));
    for group in Group::of_results() {
        let members: Vec<_> = results.operations.iter().filter(|m| m.group == group).collect();
        if !members.is_empty() {
            add(group.name(), group.title(), of_group(group, &members));
        }
    }
    add("latencies", "Latencies", tails::figures(&results.operations));
    add("batching", "Batches", plots::batches(&results.curves));
    add("conditions", "Conditions", conditions(results));
    let mut html = opening("What a paravirtual operation costs");
    html += &head(results);
    html += "<nav aria-label=\"Contents\">\n<ul>\n";
    for (id, title, _) in &sections {
        let _ = writeln!(html, "<li><a href=\"#{id}\">{}</a>", escape(title));
    }
    html += "</ul>\n</nav>\n";
    for (id, title, content) in &sections {
        html += &section(id, title, content);
    }
    html += &data(results);
    html + CLOSING
}

/// The end of a page.
const CLOSING: &str = "</main>\n</body>\n</html>\n";

/// The beginning of a page with this heading.
fn opening(heading: &str) -> String {
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>hv bench</title>\n<style>\n",
    );
    html += include_str!("style.css");
    let _ = write!(html, "</style>\n</head>\n<body>\n<main>\n<h1>{}</h1>\n", escape(heading));
    html
}

/// The data of a page, for programs: no script, and not shown.
fn data(data: &impl Serialize) -> String {
    // `</script` must not occur in it, nor `<!--`.
    let json = serde_json::to_string(data).unwrap_or_default().replace('<', "\\u003c");
    format!("<script type=\"application/json\" id=\"data\">{json}</script>\n")
}

fn section(id: &str, title: &str, content: &str) -> String {
    format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{}</h2>\n{content}</section>\n",
        escape(title)
    )
}

/// A plot with the question that it answers above, and how to read it below.
fn figure(question: &str, caption: &str, plot: &str) -> String {
    let (question, caption) = (escape(question), escape(caption));
    format!("<figure>\n<h3>{question}</h3>\n{plot}<figcaption>{caption}</figcaption>\n</figure>\n")
}

/// A table with its caption, which stands above it, too: of a table that is wider than a phone one sees the beginning only. Of each row the first cell is its head, and the cells of the second list are prose.
fn table(
    caption: &str,
    heads: &[String],
    prose: &[&str],
    rows: impl Iterator<Item = (Vec<String>, Vec<String>)>,
) -> String {
    let name = escape(caption);
    let mut html = format!(
        "<p class=\"caption\" aria-hidden=\"true\">{name}</p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{name}\">\
         <table>\n<caption>{name}</caption>\n<thead><tr>"
    );
    for head in heads {
        let _ = write!(html, "<th scope=\"col\">{}", escape(head));
    }
    for head in prose {
        let _ = write!(html, "<th scope=\"col\" class=\"prose\">{}", escape(head));
    }
    html += "</tr></thead>\n<tbody>\n";
    for (cells, prose) in rows {
        html += "<tr>";
        for (n, cell) in cells.iter().enumerate() {
            let open = if n == 0 { "<th scope=\"row\">" } else { "<td>" };
            let _ = write!(html, "{open}{}", escape(cell));
        }
        for cell in prose {
            let _ = write!(html, "<td class=\"prose\">{}", escape(&cell));
        }
        html += "</tr>\n";
    }
    html + "</tbody>\n</table></div>\n"
}

fn head(results: &Results) -> String {
    let mut html = String::new();
    for line in words::machine(results) {
        let _ = writeln!(html, "<p class=\"machine\">{}</p>", escape(&line));
    }
    let verdicts: Vec<Verdict> =
        results.operations.iter().filter_map(|m| Some(m.against.as_ref()?.verdict)).collect();
    let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
    if !verdicts.is_empty() {
        let _ = writeln!(
            html,
            "<p>Of {} comparisons the operation takes less time in {}, more in {}, and as much in {}; in {} no difference is shown, \
             and {} have too few rounds to be compared.</p>",
            verdicts.len(),
            count(Verdict::Faster),
            count(Verdict::Slower),
            count(Verdict::Alike),
            count(Verdict::NotShown),
            count(Verdict::NotCompared),
        );
    }
    for warning in &results.noise.warnings {
        let _ = writeln!(html, "<p class=\"warning\"><strong>Noisy:</strong> {}</p>", escape(warning));
    }
    html
}

fn changes(compared: &Compared) -> String {
    let mut html = String::new();
    for file in &compared.files {
        let build = if file.build.is_empty() { "unknown" } else { &file.build };
        let _ = writeln!(
            html,
            "<p class=\"machine\">{}: hv {} (build {}) · {} · {}</p>",
            escape(&file.name),
            escape(&file.version),
            escape(build),
            words::date(file.time),
            escape(&file.cpu)
        );
    }
    for note in &compared.notes {
        let _ = writeln!(html, "<p class=\"warning\">{}</p>", escape(note));
    }
    html + &plots::changes(compared)
}

fn ratios(results: &Results) -> String {
    let plots = plots::forests(&results.operations);
    match plots.is_empty() {
        true => plots,
        false => format!("{}<div class=\"plots\">\n{plots}</div>\n", plots::KEY),
    }
}

fn of_group(group: Group, members: &[&Measurement]) -> String {
    let mut html = format!("{}<div class=\"plots\">\n{}</div>\n", plots::KEY, plots::of_group(members));
    let heads = ["operation", "n", "median", "95 %", "p90", "p99", "p99.9", "per second", "exits", "CPU"];
    let row = |m: &&Measurement| {
        let cells = vec![
            m.name.clone(),
            m.median_ns.n.to_string(),
            time(m.median_ns.median),
            time_range(&m.median_ns),
            percentile(m, 90.0),
            percentile(m, 99.0),
            percentile(m, 99.9),
            rate(m.per_second),
            digits(m.exits_per_operation()),
            time(m.cpu_ns.median),
        ];
        (cells, vec![m.against.as_ref().map(words::ratio).unwrap_or_default()])
    };
    let caption = format!("{}: times of one operation; n is the number of rounds", group.title());
    html += &table(&caption, &heads.map(str::to_owned), &["compared"], members.iter().map(row));
    html += "<dl>\n";
    for m in members {
        let _ = writeln!(html, "<dt>{}<dd>{}", escape(&m.name), escape(&m.what));
    }
    html + "</dl>\n"
}

fn conditions(results: &Results) -> String {
    let mut html = String::from("<dl>\n");
    let (noise, settings) = (&results.noise, &results.settings);
    let [counter, clock] = settings.timer_ns.map(time);
    let facts = [
        (
            "Interval",
            format!("{} %, by bootstrap and order statistics", (settings.confidence * 1000.0).round() / 10.0),
        ),
        ("Least effect that is claimed", format!("{} %", (settings.effect * 1000.0).round() / 10.0)),
        ("Time budget for more than the least rounds", format!("{} s", settings.budget_s)),
        ("Pause before each round", format!("{} ms", settings.cool_down_ms)),
        ("Taken off each sample in hv's process", format!("{counter} (counter), {clock} (clock)")),
        ("Load before", digits(noise.load_before)),
        ("Jitter of a fixed piece of work", format!("{} %", digits(noise.jitter_percent))),
        ("Time kept by the hypervisor below", format!("{} %", digits(noise.steal_percent))),
        ("Processors used by other programs", format!("{} %", digits(noise.others_percent))),
        ("Rounds repeated because the host was busy", noise.repeated_rounds.to_string()),
    ];
    for (what, value) in facts {
        let _ = writeln!(html, "<dt>{what}<dd>{value}");
    }
    for (name, state) in &results.machine.mitigations {
        let _ = writeln!(html, "<dt>Mitigation: {}<dd>{}", escape(name), escape(state));
    }
    html + "</dl>\n"
}
