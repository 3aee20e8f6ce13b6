//! What a function may take of its server and of its tenant, changed by the API.

use crate::client::{Api, TOKEN, config};
use hv_tests::serve::Serve;
use hv_tests::{Platform, guest_test};
use serde_json::json;
use std::fs;

#[guest_test]
fn the_api_changes_concurrency_and_quota(platform: Platform) {
    let state = tempfile::tempdir().unwrap();
    let shop = "[tenant.shop]\nconcurrency = 8\nquota = \"50ms/100ms\"\ncap = 100\n[function.probe]\ntenant = \"shop\"";
    let config = config(state.path(), "").replace("[function.probe]", shop);
    let begin =
        || Serve::prepared(platform, &config, |_, place| fs::write(place.join("api.token"), TOKEN).unwrap());
    let serve = begin();
    let api = Api::new(&serve);
    let scale = "/v1/functions/probe/scale";
    let now = api.ask("PATCH", scale, &json!({"concurrency": 4, "quota": "10ms/100ms"}), 200);
    assert_eq!((&now["scale"]["concurrency"], &now["scale"]["quota"]), (&json!(4), &json!("10ms/100ms")));
    assert_eq!(now["changed"], json!({"concurrency": 4, "quota": "10ms/100ms"}));
    serve.get("/ok").expect(200);
    for (wrong, why) in [
        (json!({"concurrency": 9}), "its tenant `shop` has concurrency = 8"),
        (json!({"concurrency": 0}), "nothing would ever be answered"),
        (json!({"quota": "60ms/100ms"}), "its tenant `shop` has 50ms in each 100ms"),
        (json!({"quota": "60ms"}), "write CPU time and the period"),
        (json!({"cap": 101}), "its tenant `shop` has cap = 100"),
        (json!({"concurrency": 4, "max_instances": 3}), "each request has an instance"),
    ] {
        let problem = api.ask("PATCH", scale, &wrong, 422);
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
    api.ask("PATCH", scale, &json!({"quota": 5}), 400);
    // It outlasts a restart, until it is taken back.
    serve.end();
    let serve = begin();
    let api = Api::new(&serve);
    assert_eq!(api.get("/v1/functions/probe", 200)["scale"]["concurrency"], 4);
    let now = api.ask("PATCH", scale, &json!({"concurrency": null, "quota": null}), 200);
    assert_eq!((&now["scale"]["concurrency"], &now["scale"]["quota"]), (&json!(64), &json!(null)));
    assert_eq!(now["changed"], json!({}));
    serve.end();
}
