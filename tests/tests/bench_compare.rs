//! `hv bench compare` and `--compare`: results of real runs beside each other, and files that are none.

use hv_bench::result::{Results, SCHEMA};
use hv_stats::Estimate;
use hv_tests::refusal::{refused, text};
use hv_tests::{Finished, Platform, Running, guest, guest_test, hv};
use std::fs;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// `hv bench …` with the guests that the tests have built.
fn bench(arguments: &[&str]) -> Command {
    let guests = guest("bench");
    let mut command = Command::new(hv());
    command.arg("bench").arg("--images").arg(guests.parent().unwrap()).args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn ran(arguments: &[&str]) -> Finished {
    Running::new(&mut bench(arguments)).finish().expect(0)
}

#[guest_test(kvm, "what is measured here is KVM")]
fn runs_are_compared(_: Platform) {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    let options = ["clock-page", "--quick", "--rounds", "6"];
    let write = |name: &str, results: &Results| {
        fs::write(file(name), serde_json::to_string(results).unwrap()).unwrap();
    };
    let measure = |name: &str| -> Results {
        let json = ran(&[&options[..], &["--format", "json"]].concat()).text();
        fs::write(file(name), &json).unwrap();
        serde_json::from_str(&json).expect("a result")
    };
    let (old, new) = (measure("old.json"), measure("new.json"));
    assert_eq!(old.program.build, new.program.build, "the same program");
    let compare = |more: &[&str], files: &[&str], code| {
        let mut command = Command::new(hv());
        command.args(["bench", "compare"]).args(files.iter().map(|name| file(name))).args(more);
        Running::new(command.stdin(Stdio::null())).finish().expect(code).text()
    };
    // Two runs of the same program: all that they share is there, whatever the host did meanwhile.
    let json: serde_json::Value =
        serde_json::from_str(&compare(&["--format", "json"], &["old.json", "new.json"], 0)).unwrap();
    assert_eq!((&json["schema"], json["files"].as_array().unwrap().len()), (&SCHEMA.into(), 2));
    let row = &json["ratios"][0];
    assert_eq!((&row["name"], &row["against"]), (&"clock-page".into(), &"clock-kvmclock".into()));
    let ratio = |column: usize| row["columns"][column]["median"].as_f64().unwrap();
    let change = row["changes"][0]["ratio"]["median"].as_f64().unwrap();
    assert!((change / (ratio(1) / ratio(0)) - 1.0).abs() < 0.01, "{row}");
    assert_eq!(json["medians"].as_array().unwrap().len(), 2);
    let not_compared = json["files"][1]["not_compared"].is_string();
    assert!(!not_compared, "on the same host, with the same settings: {json}");

    // With ratios that a quiet host could have given, and half as large again: that is found, and only there.
    let with = |ratio: f64| {
        let mut results = old.clone();
        let against = results.operations.iter_mut().find_map(|m| m.against.as_mut()).expect("a comparison");
        against.ratios = (0..6).map(|n| ratio * (1.0 + 0.005 * f64::from(n))).collect();
        against.ratio = Estimate::of(against.ratios.iter().copied(), 1);
        results
    };
    let slower = with(1.8);
    write("quiet.json", &with(1.2));
    write("slower.json", &slower);
    let table = compare(&["--check"], &["quiet.json", "slower.json"], 1);
    let line = table
        .lines()
        .find(|line| line.trim_start().starts_with("clock-page   clock-kvmclock"))
        .expect("it is compared");
    assert!(line.ends_with(": slower") && line.contains("1.50 ×"), "{line}");
    assert!(compare(&["--check"], &["slower.json", "quiet.json"], 0).contains(": faster"));
    assert!(compare(&["--check"], &["quiet.json", "quiet.json"], 0).contains("0 of 1 ratios differ"));
    let csv = compare(&["--format", "csv"], &["old.json", "slower.json", "new.json"], 0);
    assert!(csv.starts_with("figure,operation,against,file,value,low,high,n,"), "{csv}");
    assert_eq!(csv.lines().count(), 1 + 3 + 2 * 3);
    let markdown = compare(&["--format", "markdown"], &["old.json", "slower.json"], 0);
    assert!(
        markdown.contains("| operation | by | old | slower | slower by old |\n|---|---|---|---|---|\n"),
        "{markdown}"
    );
    assert!(compare(&[], &["old.json"], 0).contains("Medians"));

    // Another host is told, and nothing is compared; another way to measure is refused.
    let mut elsewhere = slower.clone();
    elsewhere.machine.kernel = "Linux 1.0".into();
    write("elsewhere.json", &elsewhere);
    let table = compare(&["--check"], &["old.json", "elsewhere.json"], 0);
    assert!(
        table.contains("not compared")
            && table.contains("the kernel differs: ")
            && table.contains("Linux 1.0"),
        "{table}"
    );
    let mut full = slower.clone();
    full.settings.round_ms = 60;
    write("full.json", &full);
    let refuse = |command: &mut Command, parts: &[&str]| refused(command.stdin(Stdio::null()), parts);
    let command = |name: &str| {
        let mut command = Command::new(hv());
        command.args(["bench", "compare"]).args([file("old.json"), file(name)]);
        command
    };
    refuse(&mut command("full.json"), &["full.json", "of 60 ms", "--quick", "--anyway"]);
    assert!(compare(&["--anyway", "--check"], &["old.json", "full.json"], 0).contains("not compared"));
    let mut other = old.clone();
    other.operations.iter_mut().for_each(|m| m.name.push('x'));
    write("other.json", &other);
    refuse(&mut command("other.json"), &["other.json", "no operation in common"]);

    // In a run the same rules hold, and are looked at before it begins.
    refuse(
        &mut bench(&["clock-page", "--quick", "--compare", text(&file("full.json"))]),
        &["full.json", "of 60 ms"],
    );
    refuse(
        &mut bench(&["empty-loop", "--quick", "--compare", text(&file("old.json"))]),
        &["no operation in common"],
    );
    // A twentieth of the ratio: no noise covers that.
    write("fast.json", &with(1.2 / 20.0));
    let (page, fast) = (file("page.html"), file("fast.json"));
    let run =
        [&options[..], &["--compare", text(&fast), "--report", text(&page), "--format", "json"]].concat();
    let json: serde_json::Value = serde_json::from_str(&ran(&run).text()).unwrap();
    assert_eq!(json["compared"]["ratios"][0]["changes"][0]["verdict"], "slower");
    assert_eq!(json["schema"], SCHEMA);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("clock-page / clock-kvmclock: slower"), "the report has the comparison");
    // And the page of a result that is there.
    let again = file("again.html");
    let mut command = Command::new(hv());
    command.args(["bench", "report"]).arg(file("new.json")).arg("--compare").arg(&fast).arg("-o").arg(&again);
    Running::new(command.stdin(Stdio::null())).finish().expect(0);
    assert!(fs::read_to_string(again).unwrap().contains("clock-page / clock-kvmclock: slower"));
}

#[guest_test(kvm, "what is measured here is KVM")]
fn old_results_that_are_none_are_refused_before_anything_is_measured(_: Platform) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.json");
    let refuse = |parts: &[&str]| {
        let all = [&[text(&path)], parts].concat();
        refused(&mut bench(&["exits", "--compare", text(&path)]), &all);
        let mut command = Command::new(hv());
        refused(command.args(["bench", "compare", text(&path), text(&path)]).stdin(Stdio::null()), &all);
        command = Command::new(hv());
        let page = folder.path().join("page.html");
        refused(command.args(["bench", "report", text(&path), "-o", text(&page)]).stdin(Stdio::null()), &all);
        assert!(!page.exists());
    };
    refuse(&["cannot read"]);
    for (content, parts) in [
        ("", ["the file is empty", "--format json"]),
        ("<html>", ["no result of hv bench", "--format json"]),
        ("[1]", ["no result of hv bench", "--format json"]),
        ("{\"schema\": 2}", ["no result of hv bench", "missing field"]),
        ("{\"schema\": 1, \"operations\": []}", ["version 1, this hv reads version 2", "measure anew"]),
        ("{\"schema\": 2, \"kind\": \"density\"}", ["hv bench density", "no operations to compare"]),
        ("{\"schema\": \"1\"}", ["no result of hv bench", "invalid type"]),
        ("{\"schema\": 99, \"anything\": true}", ["version 99", "measure anew"]),
    ] {
        fs::write(&path, content).unwrap();
        refuse(&parts);
    }
    fs::write(&path, [0xff, 0xfe]).unwrap();
    refuse(&["cannot read", "UTF-8"]);
}
