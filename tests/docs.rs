//! The configurations that documents show: every whole one must load, so that what a reader copies works.
//!
//! A block is whole when it begins with the comment `# weir.toml`; others are excerpts and are left alone.

use std::path::{Path, PathBuf};

const WHOLE: &str = "# weir.toml";

#[test]
fn shown_configurations_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut shown = 0;
    for document in documents(root) {
        let text = std::fs::read_to_string(&document).expect("documents are readable");
        for (line, block) in whole_configurations(&text) {
            shown += 1;
            let folder = tempfile::TempDir::new().expect("the temporary folder is writable");
            let file = folder.path().join("weir.toml");
            std::fs::write(&file, block).expect("the temporary folder is writable");
            let loaded = weir::config::load(&file, &|_| None);
            let findings = loaded.report.render(false);
            assert!(findings.is_empty(), "{}, the block at line {line}:\n{findings}", document.display());
            assert!(loaded.config.is_some());
        }
    }
    assert!(shown > 0, "no document shows a configuration");
}

/// README.md and the documents of `docs/`.
fn documents(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("docs")).expect("docs/ is there");
    let paths = entries.map(|entry| entry.expect("docs/ is readable").path());
    let mut documents: Vec<_> = paths.filter(|path| path.extension().is_some_and(|ext| ext == "md")).collect();
    documents.push(root.join("README.md"));
    documents.sort();
    documents
}

/// TOML blocks that begin with [`WHOLE`], each with the line that it starts at.
fn whole_configurations(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line == "```toml" => open = Some((number + 2, String::new())),
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
            None => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks.retain(|(_, block)| block.starts_with(WHOLE));
    blocks
}

#[test]
fn blocks_are_found_with_their_lines_and_excerpts_are_not() {
    let text = "text\n```toml\n[server]\n```\n```toml\n# weir.toml\na = 1\n```\n```nginx\n# weir.toml\n```\n";
    assert_eq!(whole_configurations(text), [(6, "# weir.toml\na = 1\n".to_owned())]);
}
