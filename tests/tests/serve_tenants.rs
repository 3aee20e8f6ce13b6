//! What tenants share with their functions, and what bounds them all together.

use hv_tests::http::Client;
use hv_tests::serve::Serve;
use hv_tests::services::{ask, refused, text};
use hv_tests::{Platform, guest, guest_test};
use std::fs;
use std::net::TcpListener;

/// Two functions of the tenant `shop`, and one of `blog`.
fn functions(of_shop: &str, of_each: &str) -> String {
    let function = |name: &str, tenant: &str, keys: &str| {
        format!(
            "[function.{name}]\npath = \"/{name}/*\"\nimage = {:?}\ntenant = \"{tenant}\"\n{keys}\n",
            guest("fn-reach")
        )
    };
    let tenants =
        format!("[tenant.shop]\n{of_shop}\n[tenant.blog]\nsecrets = {{ OTHER = \"file:token\" }}\n");
    tenants
        + &function("one", "shop", of_each)
        + &function("two", "shop", of_each)
        + &function("other", "blog", "")
}

fn with_folders(platform: Platform, config: &str) -> Serve {
    Serve::prepared(platform, config, |_, place| {
        ["kv", "own", "blobs"].iter().for_each(|name| fs::create_dir(place.join(name)).unwrap());
        fs::write(place.join("token"), "of the tenant").unwrap();
        fs::write(place.join("own-token"), "of the function").unwrap();
    })
}

const BINDINGS: &str =
    "[store.kv]\nfolder = \"kv\"\n[store.own]\nfolder = \"own\"\n[blob.files]\nfolder = \"blobs\"\n";

#[guest_test]
fn functions_of_a_tenant_share_what_it_has(platform: Platform) {
    let shop = "store = \"kv\"\nblob = \"files\"\nsecrets = { TOKEN = \"file:token\" }";
    let config = functions(shop, "").replacen(
        "tenant = \"shop\"\n",
        "tenant = \"shop\"\nstore = [\"own\", \"kv\"]\nsecrets = { TOKEN = \"file:own-token\" }\n",
        1,
    );
    let serve = with_folders(platform, &format!("{BINDINGS}{config}"));
    let mut client = serve.client();
    ask(&mut client, "PUT", "/one/store?name=kv&key=a", b"from one", 200);
    assert_eq!(ask(&mut client, "GET", "/two/store?name=kv&key=a", b"", 200), b"from one");
    ask(&mut client, "PUT", "/two/blob?name=files&key=b", b"from two", 200);
    assert_eq!(ask(&mut client, "GET", "/one/blob?name=files&key=b", b"", 200), b"from two");
    assert_eq!(text(&mut client, "/two/secret?key=TOKEN"), "of the tenant");
    // A function has its own besides, which come first.
    assert_eq!(text(&mut client, "/one/secret?key=TOKEN"), "of the function");
    ask(&mut client, "PUT", "/one/store?name=own&key=a", b"1", 200);
    for denied in ["/two/why?name=own&key=a", "/other/why?name=kv&key=a"] {
        assert!(text(&mut client, denied).starts_with("Denied("), "{denied}");
    }
    ask(&mut client, "GET", "/other/secret?key=TOKEN", b"", 500);
    serve.end();
}

#[guest_test]
fn a_tenant_is_bounded_as_a_whole(platform: Platform) {
    // One operation in a second, whichever function and binding it is of.
    let shop = "store = [\"kv\", \"own\"]\noperations = 2\nnet_connections = 3";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let config = functions(shop, &format!("net = \"tcp:{to}\""))
        .replace("tenant = \"blog\"\n", &format!("tenant = \"blog\"\nnet = \"tcp:{to}\"\n"));
    let serve = with_folders(platform, &format!("{BINDINGS}{config}"));
    let mut client = serve.client();
    // Two at once, and the rest as time passes: some of many are refused, of either function.
    let refused: usize = (0..40)
        .map(|at| {
            let (function, store) = (["one", "two"][at % 2], ["kv", "own"][at / 2 % 2]);
            let said = text(&mut client, &format!("/{function}/why?name={store}&key=none"));
            usize::from(said.starts_with("Limited(") && said.contains("tenant shop"))
        })
        .sum();
    assert!(refused > 0);
    // Connections: another tenant's are its own.
    assert_eq!(text(&mut client, &format!("/one/seats?n=5&to={to}")).split(' ').next(), Some("3"));
    assert_eq!(text(&mut client, &format!("/other/seats?n=5&to={to}")).split(' ').next(), Some("5"));
    let held = std::thread::scope(|scope| {
        let serve = &serve;
        let holder = scope.spawn(move || {
            let mut client = serve.client();
            client.send(format!("GET /one/hold?to={to} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
            client
        });
        let _client: Client = holder.join().unwrap();
        // Its own connection is made sooner or later.
        hv_tests::eventually("a seat that is taken", || {
            let mut client = serve.client();
            let said = text(&mut client, &format!("/two/seats?n=5&to={to}"));
            (said.split(' ').next() == Some("2")).then_some(said)
        })
    });
    assert!(held.contains("tenant shop"), "{held}");
    serve.signal(libc::SIGTERM);
    serve.signal(libc::SIGTERM);
    serve.finish();
}

#[guest_test]
fn what_is_another_tenants_is_refused(platform: Platform) {
    let said = |shop: &str, change: (&str, &str)| {
        let config = format!("{BINDINGS}{}", functions(shop, "")).replace(change.0, change.1);
        refused(platform, &config, |place| {
            ["kv", "own", "blobs"].iter().for_each(|name| fs::create_dir(place.join(name)).unwrap());
            fs::write(place.join("token"), "of the tenant").unwrap();
        })
    };
    for (shop, change, expected) in [
        (
            "store = \"kv\"",
            ("tenant = \"blog\"\n", "tenant = \"blog\"\nstore = \"kv\"\n"),
            "store = \"kv\": it is the tenant `shop`'s",
        ),
        (
            "store = \"kv\"",
            ("[tenant.blog]", "[tenant.blog]\nstore = \"kv\""),
            "store = \"kv\": it is the tenant",
        ),
        (
            "blob = \"files\"",
            ("tenant = \"blog\"\n", "blob = \"files\"\n"),
            "blob = \"files\": it is the tenant `shop`'s",
        ),
        ("store = \"vk\"", ("", ""), "there is no table [store.vk]; did you mean \"kv\"?"),
        ("operations = 0", ("", ""), "operations = 0"),
        ("secrets = { A = \"sesame\" }", ("", ""), "secrets = …: write \"file:PATH\""),
    ] {
        let said = said(shop, change);
        assert!(
            said.contains(expected) && said.trim_end().lines().count() == 1,
            "{said}\nis not: {expected}"
        );
    }
}
