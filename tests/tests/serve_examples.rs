//! The example functions behind `hv serve`, with curl.

use hv_tests::serve::Serve;
use hv_tests::{Platform, guest, guest_test, has_tools};
use std::process::Command;

/// A module that adds: `(func (export "add") (param i32 i32) (result i32) …)`.
const ADD: &[u8] =
    b"\0asm\x01\0\0\0\x01\x07\x01\x60\x02\x7f\x7f\x01\x7f\x03\x02\x01\0\x07\x07\x01\x03add\0\0\
    \x0a\x09\x01\x07\0\x20\0\x20\x01\x6a\x0b";

fn config(function: &str, more: &str) -> String {
    format!("[function.{function}]\npath = \"/f\"\nimage = {:?}\nmemory = \"64M\"\n{more}\n", guest(function))
}

fn curl(serve: &Serve, query: &str, arguments: &[&str], body: &[u8]) -> (u16, Vec<u8>) {
    let file = serve.folder().join("body");
    std::fs::write(&file, body).unwrap();
    let url = format!("http://127.0.0.1:{}/f{query}", serve.port);
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--write-out", "\n%{http_code}", &url]).args(arguments);
    if !body.is_empty() {
        command.arg("--data-binary").arg(format!("@{}", file.display()));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let end = output.stdout.iter().rposition(|&byte| byte == b'\n').unwrap();
    let status = std::str::from_utf8(&output.stdout[end + 1..]).unwrap().parse().unwrap();
    (status, output.stdout[..end].to_vec())
}

fn text(answer: (u16, Vec<u8>)) -> (u16, String) {
    (answer.0, String::from_utf8(answer.1).unwrap())
}

#[guest_test]
fn hello_and_json(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let serve = Serve::start(platform, &config("fn-hello", ""));
    assert_eq!(text(curl(&serve, "?name=Ada", &[], b"")), (200, "Hello, Ada!\n".into()));
    serve.end();

    let serve = Serve::start(platform, &config("fn-json", ""));
    let (status, answer) = text(curl(&serve, "", &[], b"{\"numbers\": [1, 2, 3, 4]}"));
    let answer: serde_json::Value = serde_json::from_str(&answer).expect(&answer);
    assert_eq!((status, answer["mean"].as_f64()), (200, Some(2.5)), "{answer}");
    assert_eq!(curl(&serve, "", &[], b"{\"open\":").0, 400);
    serve.end();
}

#[guest_test]
fn images_are_scaled(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    // Left half red, right half blue.
    let pixels: Vec<u8> =
        (0..64 * 32).flat_map(|at| if at % 64 < 32 { [255, 0, 0] } else { [0, 0, 255] }).collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 64, 32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();

    let serve = Serve::start(platform, &config("fn-image", "body = \"8M\""));
    let (status, answer) = curl(&serve, "?w=16&h=8", &[], &file);
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    let mut reader = png::Decoder::new(std::io::Cursor::new(answer)).read_info().unwrap();
    let mut scaled = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut scaled).unwrap();
    assert_eq!((info.width, info.height), (16, 8));
    let row = scaled.len() / 8;
    let size = row / 16;
    assert!(scaled[0] > 200 && scaled[2] < 50, "red on the left: {:?}", &scaled[..size]);
    assert!(scaled[row - size] < 50 && scaled[row - size + 2] > 200, "blue on the right");
    assert_eq!(curl(&serve, "?w=16&h=8", &[], b"no picture").0, 400);
    serve.end();
}

#[guest_test]
fn modules_run_from_the_request_and_from_a_disk(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("module.wasm"), ADD).unwrap();
    let serve = Serve::start(platform, &config("fn-wasm", &format!("disks = {:?}", folder.path())));
    for n in 0..20 {
        // Some in new machines, most in warm ones whose disk went back with them.
        let sum = (200, format!("{}\n", n + 40));
        assert_eq!(text(curl(&serve, &format!("?call=add&args={n},40"), &[], b"")), sum);
        assert_eq!(text(curl(&serve, &format!("?module=module.wasm&call=add&args={n},40"), &[], b"")), sum);
    }
    assert_eq!(text(curl(&serve, "?call=add&args=1,2", &[], ADD)), (200, "3\n".into()));
    assert_eq!(curl(&serve, "?call=add&args=1,2", &[], b"nonsense").0, 422);
    assert_eq!(curl(&serve, "?module=other.wasm&call=add&args=1,2", &[], b"").0, 404);
    serve.end();
}

#[guest_test]
fn a_counter_counts_in_a_store(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tables = format!("[store.visits]\nfolder = {:?}\n", folder.path());
    let serve = Serve::start(platform, &(tables + &config("fn-counter", "store = \"visits\"")));
    for visitor in 1..=3 {
        assert_eq!(text(curl(&serve, "", &[], b"")), (200, format!("visitor {visitor}\n")));
    }
    assert_eq!(std::fs::read(folder.path().join("count")).unwrap(), b"3");
    serve.end();
}

#[guest_test]
fn a_proxy_asks_another_server(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    // Another hv serve is the server elsewhere.
    let origin = Serve::start(platform, &config("fn-hello", ""));
    let address = format!("127.0.0.1:{}", origin.port);
    let keys = format!("args = \"{address}\"\nnet = \"tcp:{address}\"");
    let serve = Serve::start(platform, &config("fn-proxy", &keys));
    assert_eq!(text(curl(&serve, "?/f?name=Ada", &[], b"")), (200, "Hello, Ada!\n".into()));
    serve.end();
    let serve = Serve::start(platform, &config("fn-proxy", &format!("args = \"{address}\"")));
    assert_eq!(curl(&serve, "?/f", &[], b"").0, 500);
    serve.end();
    origin.end();
}
