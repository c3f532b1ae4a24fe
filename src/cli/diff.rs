//! `weir diff`: where live weights are not the file's, and which files are not what is running.

use super::client::{Admin, Failure};
use super::status::{Output, aligned, percent, text};
use serde_json::Value;
use std::process::ExitCode;

#[derive(Clone, Debug, clap::Args)]
pub struct DiffArgs {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Exit with 1 when something differs, as `git diff --exit-code` does
    #[arg(long)]
    pub exit_code: bool,
}

pub fn run(args: &DiffArgs, admin: &Admin) -> ExitCode {
    match show(args, admin) {
        Ok((said, differs)) => {
            crate::cli::say(said);
            if differs && args.exit_code { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(failure) => failure.report("diff"),
    }
}

fn show(args: &DiffArgs, admin: &Admin) -> Result<(String, bool), Failure> {
    let document = admin.get("/api/v1/config/diff")?;
    let drifting = document["routes"].as_array().is_some_and(|routes| !routes.is_empty());
    let differs = drifting || document["changed_on_disk"] == true;
    let said = if args.output == Output::Json { format!("{document:#}\n") } else { table(&document) };
    Ok((said, differs))
}

fn table(document: &Value) -> String {
    let routes = document["routes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut said = String::new();
    if routes.is_empty() {
        said.push_str("every route has the weights of the file\n");
    } else {
        let mut rows = vec![["ROUTE", "GENERATION", "VARIANT", "FILE", "LIVE", "WHERE"].map(str::to_owned)];
        routes.iter().for_each(|route| push_rows(&mut rows, route));
        said.push_str(&aligned(&rows, [false, true, false, true, true, false]));
        said.push_str("`weir save` writes the live weights into the file\n");
    }
    let files = document["files"].as_array().map_or(&[][..], Vec::as_slice);
    for file in files {
        let path = text(&file["path"]);
        said.push_str(&match file["change"].as_str() {
            Some("edited") => format!("{path} was edited since it was loaded\n"),
            Some("new") => format!("{path} is new and not loaded\n"),
            _ => format!("{path}: {}\n", text(&file["detail"])),
        });
    }
    if !files.is_empty() {
        said.push_str("`weir check` and `weir reload` bring what is on disk into force\n");
    }
    said
}

fn push_rows(rows: &mut Vec<[String; 6]>, route: &Value) {
    let place = match &route["file"] {
        Value::Null => "-".to_owned(),
        file => format!("{}:{}", text(&file["path"]), file["line"]),
    };
    for (nth, (variant, configured)) in route["configured"].as_object().into_iter().flatten().enumerate() {
        let first = |cell: String| if nth == 0 { cell } else { String::new() };
        rows.push([
            first(text(&route["route"])),
            first(text(&route["generation"])),
            variant.clone(),
            percent(configured),
            percent(&route["live"][variant]),
            first(place.clone()),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drift_is_a_table_and_edited_files_are_named() {
        let document = json!({
            "routes": [{"route": "shop", "generation": 3, "file": {"path": "/etc/weir.toml", "line": 20},
                "configured": {"stable": 100, "canary": 0}, "live": {"stable": 94.875, "canary": 5.125}}],
            "changed_on_disk": true,
            "files": [{"path": "/etc/weir.toml", "change": "edited"}, {"path": "/etc/a.toml", "change": "new"},
                {"path": "/etc/b.toml", "change": "unreadable", "detail": "cannot read: gone"}],
        });
        let expected = "\
ROUTE  GENERATION  VARIANT   FILE      LIVE  WHERE
shop            3  stable   100 %  94.875 %  /etc/weir.toml:20
                   canary     0 %   5.125 %
`weir save` writes the live weights into the file
/etc/weir.toml was edited since it was loaded
/etc/a.toml is new and not loaded
/etc/b.toml: cannot read: gone
`weir check` and `weir reload` bring what is on disk into force
";
        assert_eq!(table(&document), expected);
        let same = json!({"routes": [], "changed_on_disk": false, "files": []});
        assert_eq!(table(&same), "every route has the weights of the file\n");
    }
}
