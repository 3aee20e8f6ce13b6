//! The page of `hv bench report` in a browser: light and dark, on a phone and on a desk.
//!
//! Its result is one of a real run, in `tests/golden/bench.json`, without most of the histograms.

use hv_bench::operation::Group;
use hv_bench::result::Results;
use hv_tests::refusal::text;
use hv_tests::{Running, has_tools, hv};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The page of the result, compared with one in which some ratios were others. The other's path has no place to break a line at, and is wider than a
/// phone: the headings name both files.
fn page(folder: &Path) -> PathBuf {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/bench.json");
    let mut old: Results =
        serde_json::from_str(&fs::read_to_string(golden).unwrap()).expect("a result of this schema");
    let compared = old.operations.iter_mut().filter_map(|m| m.against.as_mut());
    for (n, against) in compared.enumerate().filter(|(n, _)| n % 3 == 0) {
        let by = if n % 2 == 0 { 1.3 } else { 0.7 };
        against.ratios.iter_mut().for_each(|ratio| *ratio *= by);
    }
    let long = folder.join("results".repeat(8));
    fs::create_dir_all(&long).unwrap();
    let (old_file, page) = (long.join("old.json"), folder.join("page.html"));
    fs::write(&old_file, serde_json::to_string(&old).unwrap()).unwrap();
    let mut command = Command::new(hv());
    command.args(["bench", "report", golden, "--compare", text(&old_file), "--output", text(&page)]);
    Running::new(command.stdin(Stdio::null())).finish().expect(0);
    page
}

/// A browser without a screen, whose page is so wide; `dark` is what its user prefers.
fn browser(profile: &TempDir, width: usize, dark: bool) -> Command {
    let mut browser = Command::new("chromium");
    browser
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        .args(["--force-device-scale-factor=1", &format!("--window-size={width},8000")])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }))
        .stdin(Stdio::null());
    browser
}

/// Looks at every piece of text: whether two overlap, whether one lies on a marker or outside of its plot, and whether anything but
/// what can be scrolled is wider than the page.
const LOOK: &str = r#"<script>
const wrong = [];
const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5;
const name = e => e.textContent.trim().slice(0, 60);
let texts = 0, marks = 0;
for (const plot of document.querySelectorAll('figure svg')) {
  const frame = plot.getBoundingClientRect();
  const all = [...plot.querySelectorAll('text')].map(e => [e, e.getBoundingClientRect()]);
  const dots = [...plot.querySelectorAll('.mark')].map(e => e.getBoundingClientRect());
  texts += all.length; marks += dots.length;
  all.forEach(([e, box], n) => {
    if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || box.top < frame.top - 0.5 || box.bottom > frame.bottom + 0.5)
      wrong.push(`clipped: ${name(e)}`);
    for (const [other, its] of all.slice(n + 1)) if (meet(box, its)) wrong.push(`overlap: ${name(e)} / ${name(other)}`);
    for (const dot of dots) if (meet(box, dot)) wrong.push(`on a marker: ${name(e)}`);
  });
}
const blocks = [...document.querySelectorAll('h1, h2, h3, p, figcaption, figure, nav li, dt, dd, .scroll')].map(e => [e, e.getBoundingClientRect()]);
for (const [e, box] of blocks) if (box.right > innerWidth + 0.5 || box.left < -0.5) wrong.push(`wider than the page: ${name(e)}`);
const prose = blocks.filter(([e]) => e.matches('h1, h2, h3, p, figcaption, nav li, dt, dd'));
prose.forEach(([e, box], n) => { for (const [other, its] of prose.slice(n + 1))
  if (!e.contains(other) && !other.contains(e) && meet(box, its)) wrong.push(`overlap: ${name(e)} / ${name(other)}`); });
if (document.documentElement.scrollWidth > innerWidth) wrong.push(`the page is ${document.documentElement.scrollWidth} wide`);
const report = document.createElement('pre');
report.id = 'looked-at';
report.textContent = [`${texts} texts, ${marks} markers`, ...wrong].join('\n');
document.body.append(report);
</script>"#;

#[test]
fn nothing_overlaps_and_nothing_is_cut_off() {
    if !has_tools(&["chromium"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let page = page(folder.path());
    let looked = folder.path().join("looked.html");
    fs::write(&looked, fs::read_to_string(&page).unwrap().replace("</body>", &format!("{LOOK}</body>")))
        .unwrap();
    for width in [390, 768, 1200] {
        let profile = TempDir::new().unwrap();
        let mut browser = browser(&profile, width, false);
        browser.arg("--dump-dom").arg(format!("file://{}", looked.display()));
        let dom = Running::new(&mut browser).finish().expect(0).text();
        let (_, found) = dom.split_once("<pre id=\"looked-at\">").expect("the page was looked at");
        let (found, _) = found.split_once("</pre>").unwrap();
        let mut lines = found.lines();
        let counts: Vec<usize> =
            lines.next().unwrap().split(' ').filter_map(|word| word.parse().ok()).collect();
        assert!(counts.iter().all(|count| *count > 150), "{width}: {counts:?} texts and markers");
        assert_eq!(lines.collect::<Vec<_>>(), Vec::<&str>::new(), "{width}");
    }
}

/// Rows at the lower end of a screenshot that are not looked at. A page of this length goes on below its window, and the window grows by the height
/// of the browser's own bars just before the screenshot: what is painted there in time differs from run to run.
const UNFINISHED: u32 = 256;

/// A screenshot without its [unfinished](UNFINISHED) end: rows of pixels, red, green and blue.
struct Picture {
    width: usize,
    rows: Vec<Vec<[u8; 3]>>,
}

impl Picture {
    fn read(path: &Path) -> Picture {
        let file = std::io::BufReader::new(fs::File::open(path).expect("there is a screenshot"));
        let mut reader = png::Decoder::new(file).read_info().expect("it is a PNG");
        let mut bytes = vec![0; reader.output_buffer_size().expect("it fits into memory")];
        let info = reader.next_frame(&mut bytes).expect("it is whole");
        assert_eq!(info.bit_depth, png::BitDepth::Eight);
        let size = info.color_type.samples();
        assert!(size >= 3, "a screenshot has colours");
        let rows = bytes[..info.buffer_size()]
            .chunks_exact(info.line_size)
            .take((info.height - UNFINISHED) as usize)
            .map(|row| row.chunks_exact(size).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect());
        Picture { width: info.width as usize, rows: rows.collect() }
    }

    fn count(&self, colour: [u8; 3]) -> usize {
        let near = |pixel: &&[u8; 3]| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 4);
        self.rows.iter().flatten().filter(near).count()
    }
}

/// The `n`th value of a colour in the page's style sheet: light is 0, dark 1.
fn colour(page: &str, name: &str, n: usize) -> [u8; 3] {
    let hex = page.split(&format!("--{name}: #")).nth(n + 1).expect("the style sheet has the colour");
    [0, 2, 4].map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
}

/// The contrast of two colours, as the Web Content Accessibility Guidelines 2 define it.
fn contrast(one: [u8; 3], other: [u8; 3]) -> f64 {
    let luminance = |colour: [u8; 3]| {
        let linear = colour.map(|value| match f64::from(value) / 255.0 {
            v if v <= 0.04045 => v / 12.92,
            v => ((v + 0.055) / 1.055).powf(2.4),
        });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    };
    let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
    (one / other).max(other / one)
}

#[test]
fn the_page_is_drawn_in_the_colours_that_its_reader_prefers() {
    if !has_tools(&["chromium"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = page(folder.path());
    let page = fs::read_to_string(&path).unwrap();
    for dark in [false, true] {
        let colour = |name| colour(&page, name, dark.into());
        let background = colour("page");
        for name in ["text", "soft", "hv", "emulated", "floor", "process"] {
            let contrast = contrast(colour(name), background);
            assert!(contrast >= 4.5, "{name}, dark {dark}: {contrast}");
        }
        for width in [390, 1200] {
            let (shot, profile) = (folder.path().join("shot.png"), TempDir::new().unwrap());
            let mut browser = browser(&profile, width, dark);
            browser.arg(format!("--screenshot={}", shot.display())).arg(format!("file://{}", path.display()));
            Running::new(&mut browser).finish().expect(0);
            let picture = Picture::read(&shot);
            let what = format!("dark {dark}, width {width}");
            assert_eq!(picture.width, width, "{what}");
            assert_eq!(picture.rows[2][2], background, "{what}: the page's own background");
            for name in ["hv", "emulated", "floor"] {
                let count = picture.count(colour(name));
                assert!(count > 150, "{what}: {count} pixels of {name}");
            }
            assert!(picture.count(colour("text")) > 500, "{what}: text");
            // Nothing reaches into the right margin: the page fits its window.
            let reaches = |row: &Vec<[u8; 3]>| row[width - 8..].iter().any(|pixel| *pixel != background);
            let beyond: Vec<usize> = (0..picture.rows.len()).filter(|&y| reaches(&picture.rows[y])).collect();
            assert_eq!(beyond, [0; 0], "{what}: something is wider than the window in these rows");
            fs::remove_file(&shot).unwrap();
        }
    }
}

#[test]
fn the_page_has_every_operation_and_its_data() {
    let folder = TempDir::new().unwrap();
    let page = fs::read_to_string(page(folder.path())).unwrap();
    let (_, data) =
        page.split_once("<script type=\"application/json\" id=\"data\">").expect("they are in it");
    let data: Results = serde_json::from_str(data.split("</script>").next().unwrap()).expect("a result");
    assert!(data.operations.len() > 50);
    for group in Group::ALL {
        assert!(page.contains(&format!("<section id=\"{}\"", group.name())), "{}", group.name());
    }
    for m in &data.operations {
        assert!(page.contains(&format!("<dt>{}<dd>", m.name)), "{}", m.name);
        let Some(against) = &m.against else { continue };
        assert!(page.contains(&format!("{} / {}", m.name, against.name)), "{}", m.name);
    }
}
