//! The admin API of `hv serve`: deployments, scales, who may use it, and the document that describes it.

#[path = "admin/client.rs"]
mod client;
#[path = "admin/document.rs"]
mod document;
#[path = "admin/limits.rs"]
mod limits;

use client::{Api, TOKEN, start};
use document::Document;
use hv_tests::refusal::refused;
use hv_tests::serve::{Serve, checked, probe};
use hv_tests::{Finished, Platform, eventually, guest, guest_test, has_tools};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

const DEPLOYMENTS: &str = "/v1/functions/probe/deployments";

#[guest_test]
fn an_image_is_deployed_under_load_rolled_back_and_survives_a_restart(platform: Platform) {
    let state = tempfile::tempdir().unwrap();
    let serve = start(platform, state.path(), "");
    let api = Api::new(&serve);
    let hello = fs::read(guest("fn-hello")).unwrap();
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = serve.client();
                    while !end.load(Ordering::Relaxed) {
                        client.ask("GET", "/ok", "", b"").unwrap().expect(200);
                    }
                })
            })
            .collect();
        assert!(serve.get("/ok").text() == "ok\n");
        let deployed = api.upload(DEPLOYMENTS, &hello, 201);
        assert_eq!((&deployed["function"], &deployed["deployment"]["id"]), (&json!("probe"), &json!(1)));
        assert!(serve.get("/ok").text().contains("Hello"), "at once");
        // A reload changes nothing of it.
        serve.signal(libc::SIGHUP);
        serve.said("configuration reloaded: 0 functions deployed, 1 kept", 1);
        assert!(serve.get("/ok").text().contains("Hello"));
        assert_eq!(api.post("/v1/functions/probe/rollback", 200)["deployment"]["from"], "configuration");
        assert!(serve.get("/ok").text() == "ok\n");
        assert_eq!(api.upload(DEPLOYMENTS, &hello, 201)["deployment"]["id"], 2);
        end.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    let scale = api.ask("PATCH", "/v1/functions/probe/scale", &json!({"min_warm": 1, "weight": 512}), 200);
    assert_eq!((&scale["scale"]["min_warm"], &scale["changed"]["weight"]), (&json!(1), &json!(512)));
    serve.end();
    let serve = start(platform, state.path(), "");
    let api = Api::new(&serve);
    assert!(serve.get("/ok").text().contains("Hello"), "the restart kept it");
    let all = api.get(DEPLOYMENTS, 200);
    let ids: Vec<_> =
        all["deployments"].as_array().unwrap().iter().map(|one| one["id"].as_u64().unwrap()).collect();
    assert_eq!((ids, &all["deployments"][0]["active"]), (vec![2, 1, 0], &json!(true)));
    assert_eq!(api.get("/v1/functions/probe", 200)["scale"]["min_warm"], 1);
    api.post("/v1/functions/probe/rollback", 200);
    assert_eq!(serve.get("/ok").text(), "ok\n");
    let problem = api.post("/v1/functions/probe/rollback", 409);
    assert!(problem["detail"].as_str().unwrap().contains("nothing was deployed before"), "{problem}");
    serve.end();
}

#[guest_test]
fn what_does_not_become_ready_changes_nothing(platform: Platform) {
    let state = tempfile::tempdir().unwrap();
    let serve = start(platform, state.path(), "upload = \"1M\"\n");
    let api = Api::new(&serve);
    let detail = |problem: Value| problem["detail"].as_str().unwrap().to_owned();
    assert!(
        detail(api.upload(DEPLOYMENTS, b"no image", 422)).contains("function `probe` cannot be deployed")
    );
    // A guest that is no function ends before it is ready.
    let other = fs::read(guest("hello")).unwrap();
    assert!(detail(api.upload(DEPLOYMENTS, &other, 422)).contains("before it was ready for requests"));
    assert!(detail(api.upload(DEPLOYMENTS, &vec![0; (1 << 20) + 1], 413)).contains("larger"));
    assert!(detail(api.upload(DEPLOYMENTS, b"", 400)).contains("empty"));
    let missing = api.ask("POST", DEPLOYMENTS, &json!({"image": "missing"}), 422);
    assert!(detail(missing).contains("missing: No such file"));
    assert!(
        detail(api.ask("POST", DEPLOYMENTS, &json!({"image": "a", "snapshot": "b"}), 400))
            .contains("openapi")
    );
    let bounds =
        api.ask("PATCH", "/v1/functions/probe/scale", &json!({"min_warm": 3, "max_instances": 2}), 422);
    assert!(detail(bounds).contains("max_instances is 2"));
    for wrong in [json!({"max_instances": 0}), json!({"weight": 0}), json!({"weight": 100_000})] {
        api.ask("PATCH", "/v1/functions/probe/scale", &wrong, 422);
    }
    for wrong in [json!({"weight": -1}), json!({"weight": "x"}), json!({"wait": 1}), json!([1])] {
        api.ask("PATCH", "/v1/functions/probe/scale", &wrong, 400);
    }
    for path in ["/v1/functions/none", "/v1/functions/none/deployments", "/v1/nothing", "/v1/functions/a%2Fb"]
    {
        api.get(path, 404);
    }
    assert_eq!(api.raw("DELETE", "/v1/functions", "", b"").expect(405).field("allow"), Some("GET"));
    api.raw("POST", DEPLOYMENTS, "Content-Type: text/plain\r\n", b"x").expect(415);
    assert_eq!(serve.get("/ok").text(), "ok\n");
    assert_eq!(api.get(DEPLOYMENTS, 200)["deployments"].as_array().unwrap().len(), 1);
    let left: Vec<_> = fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "deployments.json"), "{left:?}");
    serve.end();
}

#[guest_test]
fn a_server_that_is_killed_while_it_receives_goes_on_with_what_it_had(platform: Platform) {
    let state = tempfile::tempdir().unwrap();
    let serve = start(platform, state.path(), "");
    let api = Api::new(&serve);
    let hello = fs::read(guest("fn-hello")).unwrap();
    api.upload(DEPLOYMENTS, &hello, 201);
    let mut client = api.client();
    let head = format!(
        "POST {DEPLOYMENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        hello.len()
    );
    client.send(&[head.as_bytes(), &hello[..hello.len() / 2]].concat()).unwrap();
    let parts = || {
        fs::read_dir(state.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "part"))
    };
    eventually("a part of it", || {
        parts().any(|entry| entry.unwrap().metadata().unwrap().len() > 0).then_some(())
    });
    serve.signal(libc::SIGKILL);
    serve.finish();
    let serve = start(platform, state.path(), "");
    assert!(serve.get("/ok").text().contains("Hello"));
    // One whose client goes away leaves nothing at all.
    let mut client = Api::new(&serve).client();
    let before = parts().count();
    client.send(&[head.as_bytes(), &hello[..hello.len() / 2]].concat()).unwrap();
    eventually("a part of it", || (parts().count() > before).then_some(()));
    drop(client);
    eventually("its end", || (parts().count() == before).then_some(()));
    assert_eq!(Api::new(&serve).upload(DEPLOYMENTS, &hello, 201)["deployment"]["id"], 2);
    serve.end();
}

#[guest_test]
fn images_and_snapshots_are_named(platform: Platform) {
    let state = tempfile::tempdir().unwrap();
    let serve = start(platform, state.path(), "");
    let api = Api::new(&serve);
    fs::copy(guest("fn-hello"), serve.folder().join("next")).unwrap();
    assert_eq!(api.ask("POST", DEPLOYMENTS, &json!({"image": "next"}), 201)["deployment"]["path"], "next");
    assert!(serve.get("/ok").text().contains("Hello"));
    let mut command = platform.command();
    command
        .args(["snapshot", "--function", "-o"])
        .arg(serve.folder().join("probe.snap"))
        .arg(guest("fn-probe"));
    Finished::of(&mut command).expect(0);
    let named = api.ask("POST", DEPLOYMENTS, &json!({"snapshot": "probe.snap"}), 201);
    assert_eq!(named["deployment"]["from"], "snapshot");
    assert_eq!(serve.get("/ok").text(), "ok\n");
    // The jail holds for the API, too.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(guest("fn-hello"), elsewhere.path().join("image")).unwrap();
    let refused = api.ask("POST", DEPLOYMENTS, &json!({"image": elsewhere.path().join("image")}), 422);
    assert!(refused["detail"].as_str().unwrap().contains("in its jail"), "{refused}");
    serve.end();
}

#[guest_test]
fn nobody_is_let_in_without_the_token(platform: Platform) {
    let state = tempfile::tempdir().unwrap();
    let serve = start(platform, state.path(), "");
    let api = Api::new(&serve);
    let mut answers = Vec::new();
    for fields in [
        String::new(),
        "Authorization: Bearer wrong\r\n".into(),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n"),
    ] {
        for (method, path) in
            [("GET", "/v1/functions"), ("POST", "/v1/drain"), ("GET", "/v1/none"), ("PUT", "/v1/")]
        {
            let answer = api.client().ask(method, path, &fields, b"").unwrap().expect(401);
            assert_eq!(answer.field("www-authenticate"), Some("Bearer"));
            answers.push(answer.text());
        }
    }
    answers.dedup();
    assert_eq!(answers, ["{\"status\":401,\"title\":\"Unauthorized\"}\n"], "all the same, and no hint");
    for open in ["/v1/openapi.json", "/metrics", "/healthz"] {
        api.client().ask("GET", open, "", b"").unwrap().expect(200);
    }
    // The API is not on the listener of functions.
    assert_eq!(serve.get("/v1/functions").status, 404);
    // Another token, by a reload.
    fs::write(serve.folder().join("api.token"), "another-token-of-the-api\n").unwrap();
    serve.signal(libc::SIGHUP);
    serve.said("configuration reloaded", 1);
    api.get("/v1/functions", 401);
    let fields = "Authorization: Bearer another-token-of-the-api\r\n";
    api.client().ask("GET", "/v1/functions", fields, b"").unwrap().expect(200);
    let said = serve.end().err;
    assert!(!said.contains(TOKEN) && !said.contains("another-token"), "{said}");
}

/// A certificate that an authority has signed, in files of the folder.
fn issue(folder: &Path, name: &str, issuer: &Issuer<'_, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["localhost".into()]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let certificate = parameters.signed_by(&key, issuer).unwrap();
    fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// An authority, whose certificate is in a file of the folder.
fn authority(folder: &Path, name: &str) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, name);
    fs::write(folder.join(format!("{name}.pem")), parameters.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(parameters, key)
}

#[guest_test]
fn clients_with_a_certificate_are_let_in(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let api = "admin = \"127.0.0.1:0\"\n[api]\nstate = \".\"\nchain = \"hv.pem\"\nkey = \"hv.key\"\nclients = \"ca.pem\"\n";
    let serve = Serve::prepared(platform, &(api.to_owned() + &probe("")), |_, folder| {
        let ca = authority(folder, "ca");
        issue(folder, "hv", &ca);
        issue(folder, "operator", &ca);
        issue(folder, "stranger", &authority(folder, "other"));
    });
    let port = serve.admin.unwrap();
    let curl = |client: Option<&str>, path: &str| {
        let mut command = Command::new("curl");
        command.current_dir(serve.folder()).args(["-sS", "-w", "%{http_code}", "--cacert", "ca.pem"]);
        if let Some(client) = client {
            command.args(["--cert", &format!("{client}.pem"), "--key", &format!("{client}.key")]);
        }
        Finished::of(command.arg(format!("https://localhost:{port}{path}")))
    };
    let end = curl(Some("operator"), "/v1/functions").expect(0);
    assert!(end.text().contains("\"name\":\"probe\"") && end.text().ends_with("200"), "{}", end.text());
    assert!(curl(Some("operator"), "/metrics").expect(0).text().contains("hv_instances"));
    for (client, path) in [(None, "/v1/functions"), (None, "/metrics"), (Some("stranger"), "/v1/functions")] {
        assert_ne!(curl(client, path).status.code(), Some(0), "{client:?}");
    }
    // Another authority, by a reload.
    fs::copy(serve.folder().join("other.pem"), serve.folder().join("ca2.pem")).unwrap();
    fs::rename(serve.folder().join("other.pem"), serve.folder().join("clients")).unwrap();
    serve.reload(&(api.replace("\"ca.pem\"", "\"clients\"") + &probe("")));
    serve.said("configuration reloaded", 1);
    curl(Some("stranger"), "/v1/functions").expect(0);
    assert_ne!(curl(Some("operator"), "/v1/functions").status.code(), Some(0));
    serve.end();
}

#[guest_test]
fn it_drains(platform: Platform) {
    let state = tempfile::tempdir().unwrap();
    let serve = start(platform, state.path(), "");
    let mut busy = serve.client();
    busy.send(b"GET /sleep?ms=700 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    eventually("the guest", || (serve.metric("hv_guests_live{") == 1.0).then_some(()));
    let api = Api::new(&serve);
    assert_eq!(api.post("/v1/drain", 202)["draining"], true);
    serve.said("hv: draining", 1);
    api.ask("PATCH", "/v1/functions/probe/scale", &json!({"weight": 2}), 503);
    busy.answer("GET").unwrap().expect(200);
    serve.finish().expect(0);
}

#[guest_test]
fn the_document_holds(platform: Platform) {
    let state = tempfile::tempdir().unwrap();
    let serve = start(platform, state.path(), "");
    let api = Api::new(&serve);
    let document =
        Document::new(api.client().ask("GET", "/v1/openapi.json", "", b"").unwrap().expect(200).text());
    let published = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/admin-api.json");
    assert_eq!(
        fs::read_to_string(published).unwrap(),
        document.text,
        "the one in docs/ is the one that is served"
    );
    let hello = fs::read(guest("fn-hello")).unwrap();
    // Each operation, as it is documented to answer; the last one ends the server.
    let json = "application/json";
    let scale = json!({"min_warm": 1, "max_instances": 8, "weight": 300, "cap": 200, "concurrency": 4, "quota": "50ms/100ms"});
    let scale = scale.to_string();
    serve.client().ask("GET", "/print", "X-Request-Id: known\r\n", b"").unwrap().expect(200);
    let asked: [(&str, &str, &str, &[u8], u16); 14] = [
        ("document", "", "", b"", 200),
        ("listFunctions", "", "", b"", 200),
        ("showFunction", "probe", "", b"", 200),
        ("showFunction", "none", "", b"", 404),
        ("deploy", "probe", "application/octet-stream", &hello, 201),
        ("deploy", "probe", json, b"{}", 400),
        ("listDeployments", "probe", "", b"", 200),
        ("rollBack", "probe", "", b"", 200),
        ("rollBack", "probe", "", b"", 409),
        ("scale", "probe", json, scale.as_bytes(), 200),
        ("scale", "probe", json, b"{\"min_warm\": null, \"cap\": null}", 200),
        ("showRequest", "known", "", b"", 200),
        ("showRequest", "unknown", "", b"", 404),
        ("drain", "", "", b"", 202),
    ];
    for (operation, name, kind, body, status) in asked {
        let (method, path) = document.operation(operation);
        let path = path.replace("{function}", name).replace("{request}", name);
        let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        let answer = api.raw(&method, &path, &kind, body).expect(status);
        document.check(operation, &answer);
    }
    let left = document.unused();
    assert!(left.is_empty(), "operations that were not tried: {left:?}");
    serve.finish().expect(0);
}

#[guest_test]
fn impossible_tables_are_refused(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        format!("file:{state}/{name}")
    };
    let (good, short, spaced) =
        (file("good", TOKEN), file("short", "secret"), file("spaced", "sixteen characters or more"));
    let table = |keys: &str| format!("admin = \"127.0.0.1:0\"\n[api]\nstate = {state:?}\n{keys}\n");
    for (config, line, parts) in [
        (format!("[api]\nstate = {state:?}\ntoken = {good:?}\n"), 1, ["without `admin`", "add admin = "]),
        (
            format!("admin = \"127.0.0.1:0\"\n[api]\ntoken = {good:?}\n"),
            2,
            ["no `state`", "state = \"state\""],
        ),
        ("admin = \"127.0.0.1:0\"\n[api]\nstate = \"none\"\n".into(), 3, ["no such folder", "make it"]),
        (table(""), 2, ["neither `token` nor `clients`", "token = \"file:api.token\""]),
        (table("chain = \"a\""), 2, ["a part of TLS", "chain, key"]),
        (table("token = \"the-secret-itself\""), 4, ["token = …", "file:PATH"]),
        (table(&format!("token = {short:?}")), 4, ["token = …", "openssl rand -hex 32"]),
        (table(&format!("token = {spaced:?}")), 4, ["at least 16 characters", "no spaces"]),
        (table(&format!("token = {good:?}\nupload = 0")), 5, ["upload = \"0\"", "64M"]),
        (table(&format!("token = {good:?}\nupload = \"8G\"")), 5, ["upload = \"8G\"", "4G"]),
        (table(&format!("token = {good:?}\nrequests = 100000")), 5, ["requests = 100000", "65536"]),
        (
            table(&format!("token = {good:?}\ntoken2 = 1")),
            5,
            ["unknown key `token2`", "did you mean `token`?"],
        ),
    ] {
        let (mut command, _folder) = checked(platform, &(config + &probe("")), &["--check"]);
        let end = refused(&mut command, &[&format!("hv.toml:{line}: "), parts[0], parts[1]]);
        assert!(!end.err.contains("the-secret-itself"), "{}", end.err);
    }
    // A file of state that was damaged, or is for nothing that there is.
    let good = table(&format!("token = {good:?}")) + &probe("");
    let image = folder.path().join("deployments.json");
    for (text, parts) in [
        ("{", ["deployments.json: ", "restore the file, or remove it"]),
        (r#"{"version": 2, "functions": {}}"#, ["version 2", "use the hv that wrote it"]),
        (
            r#"{"version":1,"functions":{"probe":{"last":1,"active":1,"deployments":[{"id":1,"before":0,"created":"","upload":"gone"}]}}}"#,
            ["function probe: deployment 1", "No such file"],
        ),
    ] {
        fs::write(&image, text).unwrap();
        let (mut command, _folder) = checked(platform, &good, &["--check"]);
        refused(&mut command, &parts);
    }
}
