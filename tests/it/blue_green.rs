//! Two colours: looked at before, switched in one step if the targets are there, and back at once.

use crate::support::*;

const PREVIEW: &str = "X-Preview: green\r\n";

struct Colours {
    blue: Upstream,
    green: Upstream,
}

impl Colours {
    fn new() -> Colours {
        Colours { blue: Upstream::named("blue"), green: Upstream::named("green") }
    }
    fn site(&self, greens: &[std::net::SocketAddr]) -> Site {
        Site::new()
            .server("workers = 2\nstate_dir = \"state\"")
            .pool("blue", &[self.blue.addr], "")
            .pool("green", greens, "")
            .toml(
                "[[route]]\nname = \"api\"\nvariants = { blue = \"blue\", green = \"green\" }\nactive = \"blue\"\n\
             preview = { header = \"x-preview\", equals = \"green\" }\n\
             [[route.rule]]\nname = \"batch\"\nwhen = { header = \"x-batch\", present = true }\nvariant = \"blue\"\n",
            )
    }
}

fn said(output: &std::process::Output) -> (Option<i32>, String) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

#[test]
fn the_preview_is_of_the_idle_colour_before_and_after_a_switch() {
    let colours = Colours::new();
    let weir = colours.site(&[colours.green.addr]).start();
    let both = || (weir.get("/", "").text().to_owned(), weir.get("/", PREVIEW).text().to_owned());
    assert_eq!(both(), ("blue".to_owned(), "green".to_owned()));
    assert_eq!(weir.get("/", &format!("X-Batch: 1\r\n{PREVIEW}")).text(), "green", "before every other rule");
    assert_eq!(weir.get("/", "X-Preview: blue\r\n").text(), "blue");
    let (code, text) = said(&weir.cli(&["switch", "api", "green", "--reason", "2025.2"]));
    assert_eq!((code, text.as_str()), (Some(0), "api is at generation 2: blue 0 %, green 100 %\n"));
    assert_eq!(both(), ("green".to_owned(), "blue".to_owned()));
    let (code, text) = said(&weir.cli(&["switch", "api", "green"]));
    assert!(
        code == Some(0) && text.contains("at generation 2 as before") && text.contains("nothing was changed"),
        "{text}"
    );
    let (code, text) = said(&weir.cli(&["undo", "api"]));
    assert_eq!((code, text.as_str()), (Some(0), "api is at generation 3: blue 100 %, green 0 %, as revision 1\n"));
    assert_eq!(both(), ("blue".to_owned(), "green".to_owned()));
    // A share in between: the smaller one is idle.
    weir.shift("api", "\"green\":50.001");
    assert_eq!(weir.get("/", PREVIEW).text(), "blue");
    weir.shift("api", "\"green\":50");
    assert_eq!(weir.get("/", PREVIEW).text(), "green");
    let forced = |variant| weir.metric("weir_requests_total", &[("variant", variant), ("forced", "true")]);
    assert_eq!((forced("green"), forced("blue")), (4.0, 2.0));
}

#[test]
fn a_switch_is_seen_by_the_next_request_and_drops_nothing() {
    let colours = Colours::new();
    let weir = colours.site(&[colours.green.addr]).start();
    let mut clients: Vec<Wire> = (0..6).map(|_| weir.client()).collect();
    for turn in 0..20 {
        let to = if turn % 2 == 0 { "green" } else { "blue" };
        let answer = weir.admin("POST", "/api/v1/routes/api/switch", "", &format!("{{\"to\":\"{to}\"}}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        for client in &mut clients {
            assert_eq!(client.get("/", "").text(), to, "turn {turn}");
        }
    }
    assert_eq!(weir.metric("weir_request_errors_total", &[("route", "api")]), 0.0);
}

#[test]
fn targets_that_are_not_there_stop_a_switch_unless_it_is_forced() {
    let colours = Colours::new();
    let gone = refused_port();
    let weir = colours.site(&[colours.green.addr, gone]).start();
    let (code, text) = said(&weir.cli(&["switch", "api", "green"]));
    assert_eq!(code, Some(1));
    assert!(text.contains(&format!("target {gone}: connection refused")), "{text}");
    assert!(!text.contains(&colours.green.addr.to_string()), "only what is wrong: {text}");
    let (code, text) = said(&weir.cli(&["switch", "api", "green", "--force", "--dry-run"]));
    assert!(code == Some(0) && text.contains("overrode: target"), "{text}");
    assert_eq!(weir.weight("api", "green"), 0.0);
    let problem = weir.admin("POST", "/api/v1/routes/api/switch", "", "{\"to\":\"green\"}").assert_problem(409);
    assert_eq!(problem["type"], "urn:weir:problem:targets-not-healthy");
    assert_eq!(problem["targets"], serde_json::json!([{"target": gone.to_string(), "why": "connection refused"}]));
    let (code, text) = said(&weir.cli(&["switch", "api", "green", "--force"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with(&format!("\noverrode: target {gone}: connection refused\n")), "{text}");
    assert_eq!(weir.weight("api", "green"), 100.0);
    let (code, _) = said(&weir.cli(&["undo", "api"]));
    assert_eq!((code, weir.get("/", "").text()), (Some(0), "blue"));
}

#[test]
fn a_target_that_came_back_is_healthy_though_workers_failed_there() {
    let colours = Colours::new();
    let addr = refused_port();
    let weir = colours.site(&[addr]).start();
    // Every worker's last connect fails.
    for _ in 0..16 {
        assert_eq!(weir.get("/", PREVIEW).status, 502);
    }
    let (code, text) = said(&weir.cli(&["switch", "api", "green"]));
    assert_eq!(code, Some(1), "{text}");
    let _back = std::net::TcpListener::bind(addr).expect("the port is still free");
    let (code, text) = said(&weir.cli(&["switch", "api", "green"]));
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_restart_keeps_the_colour_and_the_way_back() {
    let colours = Colours::new();
    let weir = colours.site(&[colours.green.addr]).start();
    assert_eq!(said(&weir.cli(&["switch", "api", "green"])).0, Some(0));
    let weir = weir.restart("KILL");
    assert_eq!((weir.get("/", "").text(), weir.get("/", PREVIEW).text()), ("green", "blue"));
    assert_eq!(said(&weir.cli(&["undo", "api"])).0, Some(0));
    assert_eq!((weir.get("/", "").text(), weir.get("/", PREVIEW).text()), ("blue", "green"));
}
