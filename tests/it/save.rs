//! From live back to the file: what differs, what is written, what is left alone, and what a crash leaves.

use crate::support::weir::weir_command;
use crate::support::*;
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

const BY_USER: &str = "sticky = { key = [\"header:x-user-id\"], fallback = \"random\" }";

fn upstreams() -> [Upstream; 2] {
    [Upstream::named("stable"), Upstream::named("canary")]
}

fn site(upstreams: &[Upstream; 2]) -> Site {
    split_site(&[("stable", &upstreams[0], "95"), ("canary", &upstreams[1], "5")], BY_USER)
}

/// A file in the site's folder, before Weir starts.
fn beside(site: &Site, name: &str, text: &str) -> PathBuf {
    let path = site.folder.path().join(name);
    std::fs::create_dir_all(path.parent().expect("it is in the folder")).expect("the temporary folder is writable");
    std::fs::write(&path, text).expect("the temporary folder is writable");
    path
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the file is there")
}

fn save(weir: &Weir, body: &str) -> Answer {
    weir.admin("POST", "/api/v1/config/save", "", body)
}

#[track_caller]
fn saved(weir: &Weir) -> Value {
    let answer = save(weir, "{}");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn diff(weir: &Weir) -> Value {
    weir.admin("GET", "/api/v1/config/diff", "", "").json()
}

fn placed(weir: &Weir) -> Vec<String> {
    let mut client = weir.client();
    (0..300).map(|user| client.get("/", &format!("X-User-Id: {user}\r\n")).text().to_owned()).collect()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_command_line_shows_the_drift_and_saves_it() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    let same = weir.cli(&["diff", "--exit-code"]);
    assert_eq!((same.status.code(), said(&same)), (Some(0), "every route has the weights of the file\n".to_owned()));
    weir.shift("shop", "\"canary\":60");
    weir.shift("shop", "\"canary\":12.5");
    let (before, clients) = (text(&weir.site.file()), placed(&weir));
    let drift = weir.cli(&["diff"]);
    assert_eq!(drift.status.code(), Some(0), "{}", said(&drift));
    assert!(said(&drift).contains("12.5 %") && said(&drift).contains("weir.toml:"), "{}", said(&drift));
    assert_eq!(weir.cli(&["diff", "--exit-code"]).status.code(), Some(1));
    let document: Value = serde_json::from_slice(&weir.cli(&["diff", "-o", "json"]).stdout).expect("JSON");
    assert_eq!(document["routes"][0]["live"], json!({"stable": 87.5, "canary": 12.5}));
    let dry = weir.cli(&["save", "--dry-run"]);
    assert_eq!((dry.status.code(), text(&weir.site.file())), (Some(0), before.clone()));
    assert!(
        said(&dry).contains("\n-weights = { stable = 95, canary = 5 }\n+weights = { stable = 87.5, canary = 12.5 }\n")
    );
    let done = weir.cli(&["save", "shop", "--reason", "keep it"]);
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert!(said(&done).contains("weights = { stable = 87.5, canary = 12.5 }"), "{}", said(&done));
    assert_eq!(text(&weir.site.file()), before.replace("stable = 95, canary = 5", "stable = 87.5, canary = 12.5"));
    eventually("the log says why", || weir.log().contains("keep it"));
    assert_eq!(said(&weir.cli(&["save"])), "nothing to save: the file has these weights already\n");
    // The file is the running process' own, and a reload and a restart move nobody.
    let configured = |weir: &Weir| weir.metric("weir_variant_weight", &[("variant", "canary"), ("kind", "configured")]);
    assert_eq!((configured(&weir), &diff(&weir)["changed_on_disk"]), (12.5, &json!(false)));
    let generation = weir.route("shop")["generation"].clone();
    let reload = weir.admin("POST", "/api/v1/reload", "", "").json();
    assert_eq!((&reload["file_won"], &reload["live_kept"]), (&json!([]), &json!([])));
    assert_eq!((placed(&weir), &weir.route("shop")["generation"]), (clients.clone(), &generation));
    let weir = weir.restart("TERM");
    assert_eq!((placed(&weir), &weir.route("shop")["generation"]), (clients, &generation));
    assert_eq!(weir.cli(&["save", "nowhere"]).status.code(), Some(1));
    assert_eq!(weir.cli(&["save", "--if-generation", "1"]).status.code(), Some(2));
}

#[test]
fn a_dry_run_is_what_patch_takes() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    weir.shift("shop", "\"canary\":33.333");
    let dry = weir.cli(&["save", "--dry-run"]);
    let copy = beside(&weir.site, "copy.toml", &text(&weir.site.file()));
    let mut patch = std::process::Command::new("patch");
    let patch = patch.arg(&copy).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn();
    saved(&weir);
    match patch {
        Ok(mut patch) => {
            std::io::Write::write_all(&mut patch.stdin.take().expect("piped"), &dry.stdout).expect("patch reads");
            assert!(patch.wait().expect("patch ends").success());
            assert_eq!(text(&copy), text(&weir.site.file()));
        }
        // Without `patch` here the shape alone is looked at.
        Err(_) => assert!(said(&dry).contains("@@ -"), "{}", said(&dry)),
    }
}

#[test]
fn each_route_goes_into_its_file_with_everything_else_as_it_was() {
    let upstreams = upstreams();
    let mut site = site(&upstreams);
    site.top = "# site\r\ninclude = [\"conf.d/*.toml\"]\t# more\r\n".to_owned();
    let variants = "variants = { blue = \"pool-stable\", green = \"pool-canary\" }";
    let api = format!(
        "\u{feff}# the API\r\n[[route]]\r\nname = \"api\"\r\nmatch = {{ path = \"/api\" }}\r\n{variants}\r\n\
         active   = 'blue' # colour\r\n"
    );
    let dotted = format!(
        "[[route]]\nname = \"dotted\" # d\nmatch = {{ path = \"/d\" }}\nweights.green = 0\n{variants}\n\ttimeout = \"9s\"\nweights . blue   =100.0\n"
    );
    let table = format!(
        "[[route]]\nname=\"table\"\nmatch={{path=\"/t\"}}\n{variants}\n[route.weights]\n# both\ngreen = 2_5\n\"blue\" = 75 # rest"
    );
    let files = [("conf.d/api.toml", &api), ("conf.d/b.toml", &dotted), ("conf.d/c.toml", &table)];
    let paths = files.map(|(name, text)| beside(&site, name, text));
    let weir = site.start();
    let main = text(&weir.site.file());
    for (route, green) in [("api", 100.0), ("dotted", 0.001), ("table", 50.0)] {
        weir.shift(route, &format!("\"green\":{green}"));
    }
    assert_eq!(saved(&weir)["files"].as_array().map(Vec::len), Some(3));
    assert_eq!(text(&paths[0]), api.replace("'blue'", "'green'"));
    assert_eq!(text(&paths[1]), dotted.replace("green = 0", "green = 0.001").replace("100.0", "99.999"));
    assert_eq!(text(&paths[2]), table.replace("2_5", "50").replace("75", "50"));
    weir.shift("api", "\"green\":90");
    weir.shift("shop", "\"canary\":7");
    saved(&weir);
    assert_eq!(text(&paths[0]), api.replace("active   = 'blue'", "weights  = { blue = 10, green = 90 }"));
    assert_eq!(text(&weir.site.file()), main.replace("stable = 95, canary = 5", "stable = 93, canary = 7"));
    let weir = weir.restart("KILL");
    assert_eq!((weir.weight("api", "green"), weir.weight("shop", "canary")), (90.0, 7.0));
    assert_eq!(diff(&weir)["routes"], json!([]));
}

#[test]
fn a_link_to_the_file_and_its_mode_stay() {
    let upstreams = upstreams();
    let site = site(&upstreams);
    let real = beside(&site, "versions/7/weir.toml", &site.text());
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).expect("it is ours");
    let _ = std::os::unix::fs::symlink("versions/7/weir.toml", site.file());
    let inode = |path: &Path| std::fs::symlink_metadata(path).expect("it is there").ino();
    // Not `start`, which writes the file.
    let weir = Weir::start(site);
    let link = inode(&weir.site.file());
    weir.shift("shop", "\"canary\":7");
    saved(&weir);
    assert!(text(&real).contains("canary = 7"), "{}", text(&real));
    assert_eq!(inode(&weir.site.file()), link);
    assert_eq!(std::fs::metadata(&real).expect("it is there").permissions().mode() & 0o7777, 0o640);
    let entries = std::fs::read_dir(real.parent().expect("a folder")).expect("readable");
    assert_eq!(entries.count(), 1, "nothing is left beside it");
}

#[test]
fn what_somebody_edited_is_not_published_by_a_save() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    weir.shift("shop", "\"canary\":40");
    let edited = format!("{}# mine\n", text(&weir.site.file()));
    beside(&weir.site, "weir.toml", &edited);
    let problem = save(&weir, "{}").assert_problem(409);
    assert_eq!(problem["type"], "urn:weir:problem:file-changed");
    assert_eq!((text(&weir.site.file()), &diff(&weir)["files"][0]["change"]), (edited.clone(), &json!("edited")));
    let shown = weir.cli(&["diff"]);
    assert!(said(&shown).contains("was edited") && said(&shown).contains("weir reload"), "{}", said(&shown));
    let refused = weir.cli(&["save"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("reload"), "{}", said(&refused));
    assert_eq!(weir.cli(&["reload"]).status.code(), Some(0));
    saved(&weir);
    assert_eq!(text(&weir.site.file()), edited.replace("stable = 95, canary = 5", "stable = 60, canary = 40"));
}

#[test]
fn a_file_that_cannot_be_written_stays_and_is_named() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    weir.shift("shop", "\"canary\":40");
    let before = text(&weir.site.file());
    let blocker = weir.site.folder.path().join(format!(".weir.toml.weir-{}", weir.pid()));
    std::fs::create_dir(&blocker).expect("the temporary folder is writable");
    let problem = save(&weir, "{}").assert_problem(507);
    assert_eq!(problem["type"], "urn:weir:problem:file-not-written");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("weir.toml")), "{problem}");
    assert_eq!((text(&weir.site.file()), weir.weight("shop", "canary")), (before, 40.0));
    std::fs::remove_dir(&blocker).expect("it is empty");
    saved(&weir);
}

#[test]
fn a_kill_leaves_a_whole_file_and_loses_nothing() {
    let upstreams = upstreams();
    let mut weir = site(&upstreams).start();
    for round in 0..10_u32 {
        let canary = 10.125 + f64::from(round);
        weir.shift("shop", &format!("\"canary\":{canary}"));
        let (before, generation, clients) =
            (text(&weir.site.file()), weir.route("shop")["generation"].clone(), placed(&weir));
        let after = saved_text(&weir);
        std::thread::scope(|scope| {
            let addr = weir.addr("admin");
            scope.spawn(move || {
                // The kill may be first.
                let Ok(stream) = std::net::TcpStream::connect(addr) else { return };
                let mut wire = Wire::new(stream);
                let head = format!("POST /api/v1/config/save HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\n\r\n");
                let _ = wire.try_send(head);
                let _ = wire.try_answer(false);
            });
            // Somewhere before, amid or after it.
            (0..round % 5).for_each(|_| drop(diff(&weir)));
            weir.signal("KILL");
        });
        weir = weir.restart("KILL");
        let found = text(&weir.site.file());
        assert!(found == before || found == after, "round {round}:\n{found}");
        assert_eq!((weir.weight("shop", "canary"), &weir.route("shop")["generation"]), (canary, &generation));
        assert_eq!(placed(&weir), clients, "round {round}");
    }
}

/// The text that saving would make, by the dry run.
fn saved_text(weir: &Weir) -> String {
    let answer = weir.admin("POST", "/api/v1/config/save?dry_run=true", "", "{}").json();
    let mut lines: Vec<String> = text(&weir.site.file()).lines().map(str::to_owned).collect();
    for line in answer["files"][0]["lines"].as_array().expect("one line changes") {
        let number = line["line"].as_u64().expect("a number") as usize;
        lines[number - 1] = line["after"].as_str().expect("a text").to_owned();
    }
    lines.join("\n") + "\n"
}

#[test]
fn saving_amid_shifts_loses_none() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    std::thread::scope(|scope| {
        let shifts = scope.spawn(|| (1..=60).for_each(|percent| weir.shift("shop", &format!("\"canary\":{percent}"))));
        while !shifts.is_finished() {
            assert_eq!(save(&weir, "{}").status, 200);
            let output = weir_command(&["check", weir.site.file().to_str().expect("UTF-8")]).output().expect("it runs");
            assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        }
    });
    assert_eq!((weir.weight("shop", "canary"), &weir.route("shop")["generation"]), (60.0, &json!(61)));
    let weir = weir.restart("KILL");
    assert_eq!((weir.weight("shop", "canary"), &weir.route("shop")["generation"]), (60.0, &json!(61)));
    saved(&weir);
    assert!(text(&weir.site.file()).contains("stable = 40, canary = 60"));
}

#[test]
fn what_is_in_force_and_what_would_do_can_be_asked() {
    let upstreams = upstreams();
    let weir = site(&upstreams).start();
    weir.shift("shop", "\"canary\":7");
    let effective = weir.admin("GET", "/api/v1/config/effective", "", "").json();
    let shop = &effective["route"][0];
    assert_eq!((&shop["weights"]["canary"], &shop["live"]["weights"]["canary"]), (&json!(5), &json!(7)));
    assert_eq!((&shop["timeout"], &effective["limits"]["max_headers"]), (&json!("1m"), &json!(100)));
    let validate = |body: &str| {
        let mut wire = Wire::connect(weir.addr("admin"));
        let addr = weir.addr("admin");
        let head = format!(
            "POST /api/v1/config/validate HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Type: application/toml\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        wire.send(head).answer().json()
    };
    let good = text(&weir.site.file());
    assert_eq!(validate(&good)["errors"], json!([]));
    let bad = validate(&good.replace("canary = 5", "canary = 6"));
    let output = {
        let copy = beside(&weir.site, "bad.toml", &good.replace("canary = 5", "canary = 6"));
        weir_command(&["check", "--json", copy.to_str().expect("UTF-8")]).output().expect("the binary runs")
    };
    let mut checked: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    checked["errors"][0]["file"] = bad["errors"][0]["file"].clone();
    assert_eq!(bad, checked);
    assert_eq!(text(&weir.site.file()), good);
}
