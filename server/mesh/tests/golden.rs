//! Objects as users write them, and what they become: `golden/NAME.yaml` and `golden/NAME.txt`. The YAML's first lines
//! say for whom (`# for: sidecar default app=web`) and what is shown (`# show: routes 80`, a kind and the beginning of
//! a name or a part of it). `MESH_GOLDEN=write` writes the texts anew.

mod support;

use std::path::Path;

use support::{everything, mesh, render::render, workload};
use trireme_mesh::Kind;

fn shown(text: &str, yaml: &str) -> String {
    let mesh = mesh(yaml);
    let mut out = String::new();
    let mut who = workload("sidecar default");
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        if let Some(text) = line.strip_prefix("# for: ") {
            who = workload(text);
            out += &format!("## for {text}\n");
        }
        if let Some(text) = line.strip_prefix("# show: ") {
            let (kind, part) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
            let kind = match kind {
                "listeners" => Kind::Listener,
                "routes" => Kind::Route,
                "clusters" => Kind::Cluster,
                "endpoints" => Kind::Endpoint,
                other => panic!("no kind {other}"),
            };
            let mut found = false;
            for (of, resource) in everything(&mesh, &who) {
                if of == kind
                    && (resource.name == part
                        || (part.len() > 5 && resource.name.contains(part))
                        || part.is_empty())
                {
                    out += &render(kind, &resource);
                    found = true;
                }
            }
            if !found {
                out += &format!("no {text}\n");
            }
        }
    }
    out
}

#[test]
fn objects_become_what_the_golden_files_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let write = std::env::var("MESH_GOLDEN").is_ok_and(|it| it == "write");
    let base = std::fs::read_to_string(folder.join("base.yaml")).expect("base.yaml");
    let mut failures = Vec::new();
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .filter(|path| !path.ends_with("base.yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 10, "golden files are missing");
    for path in names {
        let text = std::fs::read_to_string(&path).expect("YAML");
        let got = shown(&text, &format!("{base}\n---\n{text}"));
        let expected = path.with_extension("txt");
        if write {
            std::fs::write(&expected, &got).expect("written");
            continue;
        }
        let want = std::fs::read_to_string(&expected).unwrap_or_default();
        if want != got {
            failures.push(format!(
                "{}\n--- expected\n{want}\n--- got\n{got}",
                path.display()
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
