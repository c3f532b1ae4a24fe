//! What a route changes in requests and answers, and what it answers by itself, as client and target see it.

use crate::support::*;

/// A site whose route `all` has these lines, and more tables after it.
fn site(upstream: &Upstream, lines: &str) -> Site {
    Site::new().to(upstream.addr, "", lines)
}

/// A site with one route, `only`, that has no targets.
fn answering(lines: &str) -> Site {
    Site::new().toml(&format!("[[route]]\nname = \"only\"\n{lines}"))
}

/// What reached the target as path, for a GET of `path` to a route of this prefix with this `rewrite`.
#[track_caller]
fn rewritten(prefix: &str, rewrite: &str, paths: &[(&str, &str)]) {
    let upstream = Upstream::answering(|request| Reply::text(&request.path));
    let weir = Site::new()
        .pool("only", &[upstream.addr], "")
        .toml(&format!(
            "[[route]]\nname = \"all\"\nmatch = {{ path = \"{prefix}\" }}\nvariants = {{ v = \"only\" }}\nrewrite = {rewrite}"
        ))
        .start();
    let mut client = weir.client();
    for (path, expected) in paths {
        assert_eq!(client.get(path, "").text(), *expected, "{prefix} {rewrite} {path}");
    }
}

#[test]
fn a_prefix_gives_way_to_another() {
    rewritten(
        "/v1",
        "{ prefix = \"/api/new\" }",
        &[
            ("/v1", "/api/new"),
            ("/v1?a=1&b", "/api/new?a=1&b"),
            ("/v1/", "/api/new/"),
            ("/v1/x/y%2Fz?q=%20//", "/api/new/x/y%2Fz?q=%20//"),
            ("/v1/../x", "/api/new/../x"),
        ],
    );
}

#[test]
fn a_prefix_is_taken_away() {
    let paths =
        [("/v1", "/"), ("/v1?", "/?"), ("/v1/", "/"), ("/v1/x?y", "/x?y"), ("/v1//evil.example/x", "/evil.example/x")];
    rewritten("/v1/", "{ strip_prefix = true }", &paths);
    rewritten("/v1", "{ prefix = \"/\" }", &paths);
}

#[test]
fn a_whole_path_gives_way_and_the_query_stays() {
    rewritten("/", "{ path = \"/index.php\" }", &[("/", "/index.php"), ("/a/b?c=d", "/index.php?c=d")]);
}

#[test]
fn the_server_as_a_whole_has_no_path_to_rewrite() {
    let upstream = Upstream::named("ok");
    let weir = site(&upstream, "rewrite = { path = \"/x\", host = \"internal.example\" }").start();
    weir.client().send("OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n").answer();
    let request = upstream.request();
    assert_eq!((&*request.path, request.head.field("host")), ("*", Some("internal.example")));
}

#[test]
fn another_host_is_named_and_the_clients_is_told() {
    let upstream = Upstream::named("ok");
    let weir = site(&upstream, "rewrite = { host = \"internal.example:8080\", path = \"/x\" }").start();
    weir.client().send("GET http://Shop.Example/a HTTP/1.1\r\nHost: shop.example\r\n\r\n").answer();
    let request = upstream.request();
    assert_eq!(&*request.path, "/x");
    assert_eq!(request.head.field("host"), Some("internal.example:8080"));
    assert_eq!(request.head.field("x-forwarded-host"), Some("Shop.Example"));
}

#[test]
fn a_rewritten_path_that_is_too_long_is_a_414_with_the_bodys_connection_closed() {
    let upstream = Upstream::named("ok");
    let long = "y".repeat(4000);
    let weir = site(&upstream, &format!("rewrite = {{ prefix = \"/{long}\" }}"))
        .limits("max_header_bytes = \"128KiB\"")
        .start();
    let mut client = weir.client();
    let path = "x".repeat(63_000);
    client.send(format!("POST /{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"));
    let answer = client.answer();
    answer.assert_problem(414);
    assert_eq!(answer.head.field("connection"), Some("close"));
    assert!(client.is_closed());
    assert_eq!(upstream.count(), 0);
    assert_eq!(weir.get("/x", "").status, 200);
    eventually("it is counted once", || {
        weir.metric("weir_requests_total", &[("route", "all"), ("code", "4xx")]) == 1.0
    });
}

const EDITS: &str = "request_headers = { set = { x-served-by = \"weir\", x-forwarded-for = \"${client_ip}\", x-trace = \"${route}/${variant}/${request_id}\" }, \
                     add = { x-list = [\"b\", \"c\"] }, remove = [\"x-internal\", \"via\"] }\n";

#[test]
fn request_headers_are_removed_set_and_added_after_weirs_own() {
    let upstream = Upstream::named("ok");
    let weir = site(&upstream, EDITS).start();
    weir.get("/", "X-Internal: 1\r\nx-internal: 2\r\nX-Served-By: me\r\nX-List: a\r\nX-Trace: mine\r\nX-Kept: 1\r\n");
    let head = upstream.request().head;
    assert_eq!((head.field("x-internal"), head.field("via")), (None, None));
    assert_eq!((head.field("x-served-by"), head.field("x-kept")), (Some("weir"), Some("1")));
    assert_eq!((head.values("x-list"), head.field("x-forwarded-for")), (vec!["a", "b", "c"], Some("127.0.0.1")));
    let id = head.field("x-request-id").expect("every request has an id");
    assert_eq!(head.field("x-trace"), Some(format!("all/stable/{id}").as_str()));
}

#[test]
fn the_client_is_the_one_that_a_trusted_proxy_names() {
    let upstream = Upstream::named("ok");
    let lines = "request_headers = { set = { x-client = \"${client_ip}\" } }\nresponse_headers = { set = { x-client = \"<${client_ip}>\" } }";
    let weir = site(&upstream, lines).server("workers = 1\ntrusted_proxies = [\"127.0.0.0/8\"]").start();
    let answer = weir.get("/", "X-Forwarded-For: 192.0.2.7, 127.0.0.9\r\nX-Request-Id: theirs\r\n");
    assert_eq!(answer.head.field("x-client"), Some("<192.0.2.7>"));
    assert_eq!(upstream.request().head.field("x-client"), Some("192.0.2.7"));
    let answer = weir.get("/", "X-Forwarded-For: nonsense\r\n");
    assert_eq!(answer.head.field("x-client"), Some("<127.0.0.1>"));
}

#[test]
fn a_request_that_is_sent_again_is_edited_once() {
    let upstream = Upstream::answering(|request| match request.turn {
        0 => Reply::text("first"),
        // The kept connection is closed just as the second request comes.
        _ => Reply::Last(Vec::new()),
    });
    let weir = site(&upstream, EDITS).server("workers = 1").start();
    let mut client = weir.client();
    client.get("/", "");
    // A kept connection may be stale only after a moment.
    eventually("the request is sent again", || {
        client.get("/", "X-List: a\r\n");
        weir.metric("weir_retries_total", &[("route", "all")]) > 0.0
    });
    for request in upstream.requests().iter().skip(1) {
        assert_eq!(request.head.values("x-list").join(","), "a,b,c", "{request:?}");
    }
}

#[test]
fn values_name_the_variant_that_answers() {
    let (stable, canary) = (Upstream::named("stable"), Upstream::named("canary"));
    let lines = "response_headers = { set = { x-variant = \"${variant}\" } }\n\
                 [[route.rule]]\nname = \"t\"\nwhen = { header = \"x-canary\", present = true }\nvariant = \"canary\"";
    let weir = split_site(&[("stable", &stable, "100"), ("canary", &canary, "0")], lines).start();
    let mut client = weir.client();
    for (fields, variant) in [("", "stable"), ("X-Canary: 1\r\n", "canary"), ("", "stable")] {
        let answer = client.get("/", fields);
        assert_eq!((answer.text(), answer.head.field("x-variant")), (variant, Some(variant)));
    }
}

const ANSWERS: &str = "response_headers = { set = { x-variant = \"${variant}\", x-id = \"${request_id}\" }, \
                       add = { x-list = \"b\" }, remove = [\"server\", \"set-cookie\"] }\n";

#[test]
fn response_headers_are_edited_in_every_final_answer() {
    let upstream = Upstream::answering(|request| match (&*request.method, &*request.path) {
        (_, "/304") => Reply::raw("HTTP/1.1 304 X\r\nServer: x\r\nX-List: a\r\nETag: \"1\"\r\n\r\n"),
        ("HEAD", _) => Reply::raw("HTTP/1.1 200 X\r\nServer: x\r\nX-List: a\r\nContent-Length: 5\r\n\r\n"),
        (_, "/early") => Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nServer: x\r\nLink: </a>\r\n\r\nHTTP/1.1 200 X\r\nX-List: a\r\nContent-Length: 0\r\n\r\n",
        ),
        _ => Reply::status(500, "Server: x\r\nX-List: a\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n", "oh"),
    });
    let weir = site(&upstream, ANSWERS).start();
    let mut client = weir.client();
    let early = client.get("/early", "");
    assert_eq!((early.interim[0].field("server"), early.interim[0].field("x-variant")), (Some("x"), None));
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    let head = client.answer_to_head();
    for answer in [early, head, client.get("/304", ""), client.get("/500", "")] {
        let head = &answer.head;
        assert_eq!((head.field("server"), head.field("x-variant")), (None, Some("stable")), "{answer:?}");
        assert_eq!((head.values("set-cookie").len(), head.values("x-list")), (0, vec!["a", "b"]), "{answer:?}");
        assert!(upstream.requests().iter().any(|request| request.head.field("x-request-id") == head.field("x-id")));
    }
}

#[test]
fn weirs_own_errors_of_the_route_are_edited_too() {
    let weir = Site::new().to(refused_port(), "", ANSWERS).limits("max_body = 3").start();
    let answer = weir.get("/", "");
    let problem = answer.assert_problem(502);
    assert_eq!((answer.head.field("x-variant"), answer.head.field("x-list")), (Some("stable"), Some("b")));
    assert_eq!(problem["request_id"].as_str(), answer.head.field("x-id"));
    let large = weir.client().send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nhell").answer();
    large.assert_problem(413);
    assert_eq!(large.head.field("x-variant"), Some("stable"));
}

#[test]
fn weirs_own_cookie_comes_after_the_targets_are_removed() {
    let upstream = Upstream::answering(|_| Reply::status(200, "Set-Cookie: theirs=1\r\n", "ok"));
    let lines = format!("{ANSWERS}sticky = {{ fallback = \"cookie\", cookie = \"weir_all\" }}");
    let answer = site(&upstream, &lines).start().get("/", "");
    let cookies = answer.head.values("set-cookie");
    assert!(cookies.len() == 1 && cookies[0].starts_with("weir_all="), "{cookies:?}");
}

#[test]
fn a_redirect_keeps_path_and_query() {
    let weir = answering("redirect = { code = 308, scheme = \"https\", host = \"www.example\" }").start();
    let mut client = weir.client();
    for (path, location) in [
        ("/", "https://www.example/"),
        ("/a%20b/?c=%0d%0a&d[]=1", "https://www.example/a%20b/?c=%0d%0a&d[]=1"),
        ("//evil.example/x", "https://www.example//evil.example/x"),
        ("/\\evil", "https://www.example/%5Cevil"),
    ] {
        let answer = client.get(path, "");
        assert_eq!((answer.status, answer.text()), (308, ""));
        assert_eq!(answer.head.field("location"), Some(location));
        assert_eq!(answer.head.field("content-length"), Some("0"));
    }
}

#[test]
fn the_code_is_302_unless_said() {
    for (code, status) in [("", 302), ("code = 301, ", 301), ("code = 307, ", 307)] {
        let weir = answering(&format!("redirect = {{ {code}host = \"b.example\" }}")).start();
        assert_eq!(weir.get("/", "").status, status);
    }
}

#[test]
fn a_path_on_the_same_server_is_never_another_host() {
    let weir = answering("match = { path = \"/old\" }\nredirect = { prefix = \"/\" }")
        .toml("[[route]]\nname = \"rest\"\nrespond = { status = 404 }")
        .start();
    let mut client = weir.client();
    for (path, location) in [
        ("/old", "/"),
        ("/old/a?b", "/a?b"),
        ("/old//evil.example/%2e", "/evil.example/%2e"),
        ("/old/\\evil.example", "/%5Cevil.example"),
    ] {
        assert_eq!(client.get(path, "").head.field("location"), Some(location), "{path}");
    }
}

#[test]
fn a_redirect_by_host_and_port_of_the_request() {
    let weir = answering("redirect = { scheme = \"https\", port = 8443 }").start();
    let location = |head: &str| {
        let answer = weir.client().send(head).answer();
        answer.head.field("location").map(str::to_owned).unwrap_or_else(|| answer.status.to_string())
    };
    assert_eq!(location("GET /x HTTP/1.1\r\nHost: Shop.Example:8080\r\n\r\n"), "https://shop.example:8443/x");
    assert_eq!(location("GET /x HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n"), "https://[::1]:8443/x");
    assert_eq!(location("GET http://a.example/x HTTP/1.1\r\nHost: A.example:80\r\n\r\n"), "https://a.example:8443/x");
    assert_eq!(location("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), "https://a:8443/");
    assert_eq!(location("GET /x HTTP/1.0\r\n\r\n"), "400");
    assert_eq!(location("GET /x HTTP/1.1\r\nHost:\r\n\r\n"), "400");
}

#[test]
fn a_redirect_to_what_was_asked_for_is_an_error() {
    let trusting = "workers = 1\ntrusted_proxies = [\"127.0.0.0/8\"]";
    let weir = answering("redirect = { scheme = \"https\" }").server(trusting).start();
    let mut client = weir.client();
    assert_eq!(client.get("/x", "").head.field("location"), Some("https://test/x"));
    assert_eq!(client.get("/x", "X-Forwarded-Proto: http\r\n").status, 302);
    client.get("/x", "X-Forwarded-Proto: https\r\n").assert_problem(500);
    let weir = answering("redirect = { scheme = \"https\" }").start();
    assert_eq!(weir.get("/x", "X-Forwarded-Proto: https\r\n").status, 302, "a stranger is not believed");
}

#[test]
fn a_fixed_answer_has_status_type_and_retry_after() {
    let lines = "respond = { status = 503, body = \"back soon\", retry_after = \"5m\" }\n\
                 response_headers = { set = { cache-control = \"no-store\", x-route = \"${route}/${variant}\" } }";
    let weir = answering(lines).start();
    let mut client = weir.client();
    for _ in 0..2 {
        let answer = client.get("/any", "");
        assert_eq!((answer.status, answer.text()), (503, "back soon"));
        let head = &answer.head;
        assert_eq!(head.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!((head.field("retry-after"), head.field("cache-control")), (Some("300"), Some("no-store")));
        assert_eq!((head.field("x-route"), head.field("connection")), (Some("only/respond"), None));
    }
    client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    let answer = client.answer_to_head();
    assert_eq!((answer.status, answer.head.field("content-length")), (503, Some("9")));
    assert_eq!(client.get("/", "").status, 503, "no body came after the answer to HEAD");
}

#[test]
fn answers_that_have_no_body_have_none() {
    for (status, length) in [("204", None), ("304", None), ("200", Some("0")), ("410", Some("0"))] {
        let weir = answering(&format!("respond = {{ status = {status} }}")).start();
        let mut client = weir.client();
        for _ in 0..2 {
            let answer = client.get("/", "");
            assert_eq!(answer.status.to_string(), status);
            assert_eq!((answer.head.field("content-length"), answer.head.field("content-type")), (length, None));
            assert!(answer.body.is_empty() && answer.head.field("transfer-encoding").is_none());
        }
    }
}

#[test]
fn a_maintenance_page_comes_from_a_file_and_a_reload_changes_it() {
    let site = answering("respond = { status = 503, file = \"page.html\" }");
    let page = site.folder.path().join("page.html");
    std::fs::write(&page, "<p>one</p>").expect("the temporary folder is writable");
    let weir = site.start();
    let mut client = weir.client();
    let answer = client.get("/", "");
    assert_eq!((answer.text(), answer.head.field("content-type")), ("<p>one</p>", Some("text/html; charset=utf-8")));
    std::fs::write(&page, "<p>two</p>").expect("the temporary folder is writable");
    assert_eq!(client.get("/", "").text(), "<p>one</p>", "until a reload");
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(client.get("/", "").text(), "<p>two</p>");
    std::fs::remove_file(&page).expect("it is there");
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 400);
    assert_eq!(client.get("/", "").text(), "<p>two</p>");
}

#[test]
fn a_small_body_is_read_behind_the_answer_and_a_large_one_is_not() {
    let weir = answering("redirect = { host = \"b.example\" }").server("workers = 1").start();
    let mut client = weir.client();
    for length in [5, 64 * 1024] {
        client.send(format!("POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.head.field("connection")), (302, None), "before the body came");
        client.send("x".repeat(length));
        assert_eq!(client.get("/y", "").head.field("location"), Some("http://b.example/y"), "not read as a request");
    }
    for framing in ["Content-Length: 65537", "Transfer-Encoding: chunked", "Content-Length: 5\r\nExpect: 100-continue"]
    {
        let mut client = weir.client();
        client.send(format!("POST /x HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.head.field("connection")), (302, Some("close")), "{framing}");
        assert!(answer.interim.is_empty(), "nobody asked for the body: {framing}");
        assert!(client.is_closed());
    }
}

#[test]
fn a_body_behind_its_answer_is_not_taken_for_a_head_that_does_not_end() {
    let weir = answering("redirect = { host = \"b.example\" }").limits("header_timeout = \"200ms\"").start();
    let mut client = weir.client();
    client.send("POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.answer().status, 302);
    client.send("hello");
    let late = || weir.metric("weir_header_timeouts_total", &[]) as u64;
    assert_eq!(settled("the head's time is over", late), 0);
    assert_eq!(client.get("/y", "").head.field("location"), Some("http://b.example/y"), "no 408 meanwhile");
}

#[test]
fn a_small_body_that_never_comes_ends_with_the_time_out() {
    let weir = answering("respond = { status = 200 }").limits("body_idle_timeout = \"300ms\"").start();
    let mut client = weir.client();
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhe");
    assert_eq!(client.answer().status, 200);
    assert!(client.is_closed());
    assert_eq!(weir.get("/", "").status, 200);
}

#[test]
fn a_route_without_targets_is_shown_counted_and_not_shifted() {
    let weir = answering("redirect = { host = \"b.example\" }").start();
    (0..3).for_each(|_| drop(weir.get("/", "")));
    let labels = [("route", "only"), ("variant", "redirect"), ("code", "3xx"), ("forced", "false")];
    eventually("three redirects are counted", || weir.metric("weir_requests_total", &labels) == 3.0);
    let route = weir.route("only");
    let variant = &route["variants"][0];
    assert_eq!((variant["name"].as_str(), variant["pool"].is_null()), (Some("redirect"), true), "{route}");
    assert_eq!((variant["weight"].as_u64(), variant["targets"].as_u64()), (Some(100), Some(0)), "{route}");
    for (method, fields) in [("PATCH", ""), ("PUT", "If-Match: *\r\n")] {
        let body = r#"{"weights":{"redirect":100}}"#;
        let problem = weir.admin(method, "/api/v1/routes/only/weights", fields, body).assert_problem(400);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("answers by itself")), "{problem}");
    }
    assert_eq!(weir.route("only")["generation"], 1);
}

#[test]
fn a_route_becomes_a_redirect_and_a_route_again() {
    let upstream = Upstream::named("ok");
    let mut weir = site(&upstream, "").server("workers = 1\nstate_dir = \"state\"").start();
    let mut client = weir.client();
    assert_eq!(client.get("/", "").text(), "ok");
    let with_target = weir.site.rest.clone();
    let start = with_target.find("[[route]]").expect("the site has a route");
    weir.site.rest =
        format!("{}[[route]]\nname = \"all\"\nredirect = {{ host = \"b.example\" }}\n", &with_target[..start]);
    weir.site.write();
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(client.get("/", "").status, 302);
    let mut weir = weir.restart("TERM");
    assert_eq!(weir.get("/", "").status, 302);
    weir.site.rest = with_target;
    weir.site.write();
    assert_eq!(weir.admin("POST", "/api/v1/reload", "", "").status, 200);
    assert_eq!(weir.get("/", "").text(), "ok");
}
