//! Against a real registry: Debian's docker-registry.

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

use support::{Registry, make_layout, run};
use trireme_image::{Image, ImageError, ImageStore, PullSecrets, Registries, resolve_user};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: unpacking needs root");
    }
    root
}

async fn store(root: &Path, registries: &str) -> ImageStore {
    let registries = Registries::parse(registries, Path::new("registries.yaml")).expect("yaml");
    ImageStore::open(root, registries).await.expect("open")
}

fn plain_mirror(registry: &Registry) -> String {
    format!(
        "mirrors: {{\"{0}\": {{endpoint: [\"http://{0}\"]}}}}",
        registry.address
    )
}

fn check_content(image: &Image) {
    assert_eq!(image.layers.len(), 3);
    let base = &image.layers[0];
    assert_eq!(
        std::fs::read(base.join("etc/old")).expect("base layer"),
        b"old"
    );
    let hidden = std::fs::symlink_metadata(image.layers[1].join("etc/old")).expect("whiteout");
    assert!(hidden.file_type().is_char_device());
    assert_eq!(
        xattr::get(image.layers[2].join("etc/conf.d"), "trusted.overlay.opaque")
            .expect("attribute")
            .as_deref(),
        Some(&b"y"[..])
    );
    assert_eq!(image.config.entrypoint, ["/bin/busybox"]);
    assert_eq!(image.config.cmd, ["sh"]);
    assert!(image.config.env.contains(&"A=1".to_string()));
    assert_eq!(image.config.user, "web");
    assert_eq!(image.config.working_dir, "/srv");
    assert_eq!(image.config.exposed_ports, ["8080/tcp"]);
    assert_eq!(image.config.stop_signal, "SIGQUIT");
    assert_eq!(image.config.labels["who"], "test");
    let user = resolve_user(&image.layers, &image.config.user).expect("user");
    assert_eq!(
        (user.uid, user.gid, user.home.as_deref()),
        (33, 34, Some("/srv"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_by_registries_yaml() {
    if !is_root() {
        return;
    }
    let registry = Registry::plain();
    let work = tempfile::tempdir().expect("directory");
    let layout = make_layout(work.path());
    registry.push(&layout, "v1", "team/app:v1", &[]);
    registry.push(&layout, "v1", "team/app:latest", &[]);
    let root = work.path().join("store");
    let images = store(&root, &plain_mirror(&registry)).await;
    let none = PullSecrets::none();

    let name = format!("{}/team/app:v1", registry.address);
    assert_eq!(images.get(&name).expect("get"), None);
    let image = images.pull(&name, &none).await.expect("pull");
    check_content(&image);
    assert_eq!(image.references[0], name);
    let digest = image.digest_reference.clone();
    assert!(digest.starts_with(&format!("{}/team/app@sha256:", registry.address)));

    // By digest, by the default tag, by id: one image, nothing downloaded anew.
    assert_eq!(
        images.get(&digest).expect("get").expect("there").id,
        image.id
    );
    assert_eq!(
        images.get(&image.id).expect("get").expect("there").id,
        image.id
    );
    let latest = images
        .pull(&format!("{}/team/app", registry.address), &none)
        .await
        .expect("pull latest");
    assert_eq!((&latest.id, &latest.layers), (&image.id, &image.layers));
    let pinned = images.pull(&digest, &none).await.expect("pull by digest");
    assert_eq!(pinned.id, image.id);

    // It is there after a restart.
    drop(images);
    let images = store(&root, &plain_mirror(&registry)).await;
    check_content(&images.get(&name).expect("get").expect("there"));
    assert_eq!(images.list().expect("list").len(), 1);

    // The registry's own words.
    let error = images
        .pull(&format!("{}/team/app:nosuch", registry.address), &none)
        .await
        .expect_err("pulled");
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("404 Not Found: manifest unknown"),
        "{error}"
    );
    assert_eq!(error.reason(), "ErrImagePull");
    let wrong = format!("{}/team/app@sha256:{}", registry.address, "0".repeat(64));
    assert!(images.pull(&wrong, &none).await.is_err());

    // Collected only when nobody uses it.
    let used = BTreeSet::from([name.clone()]);
    assert_eq!(
        images
            .collect(&used, &BTreeSet::new())
            .await
            .expect("collect"),
        0
    );
    check_content(&images.get(&name).expect("get").expect("there"));
    let held: BTreeSet<_> = image.layers[..1].iter().cloned().collect();
    let freed = images
        .collect(&BTreeSet::new(), &held)
        .await
        .expect("collect");
    assert!(freed < image.size_bytes && image.layers[0].exists() && !image.layers[1].exists());
    assert_eq!(images.get(&name).expect("get"), None);
    images
        .collect(&BTreeSet::new(), &BTreeSet::new())
        .await
        .expect("collect");
    assert!(!image.layers[0].exists());
    // And comes back whole.
    check_content(&images.pull(&name, &none).await.expect("pull again"));
    images.remove(&name).expect("remove");
    assert!(matches!(
        images.remove(&name),
        Err(ImageError::Absent { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_basic_authentication() {
    if !is_root() {
        return;
    }
    let registry = Registry::secured();
    let work = tempfile::tempdir().expect("directory");
    let layout = make_layout(work.path());
    registry.push(&layout, "v1", "private:v1", &["--dest-creds=user:s3cret"]);
    let name = format!("{}/private:v1", registry.address);
    let ca = registry.ca().display().to_string();
    let trusting = format!(
        "configs: {{\"{}\": {{tls: {{ca_file: \"{ca}\"}}}}}}",
        registry.address
    );

    let images = store(&work.path().join("one"), &trusting).await;
    let error = images
        .pull(&name, &PullSecrets::none())
        .await
        .expect_err("pulled");
    assert!(matches!(error, ImageError::Denied { .. }), "{error}");
    assert!(
        error.to_string().contains("authentication required"),
        "{error}"
    );

    // `user:s3cret` and `user:wrong`.
    let secret = |auth: &str| {
        let mut secrets = PullSecrets::none();
        let json = format!(
            r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#,
            registry.address
        );
        secrets
            .add_docker_config_json(json.as_bytes())
            .expect("secret");
        secrets
    };
    let error = images
        .pull(&name, &secret("dXNlcjp3cm9uZw=="))
        .await
        .expect_err("pulled");
    assert!(matches!(error, ImageError::Denied { .. }), "{error}");
    let image = images
        .pull(&name, &secret("dXNlcjpzM2NyZXQ="))
        .await
        .expect("pull");
    check_content(&image);

    // From registries.yaml, without checking the certificate.
    let insecure = format!(
        "configs: {{\"{}\": {{auth: {{username: user, password: s3cret}}, tls: {{insecure_skip_verify: true}}}}}}",
        registry.address
    );
    let images = store(&work.path().join("two"), &insecure).await;
    check_content(
        &images
            .pull(&name, &PullSecrets::none())
            .await
            .expect("pull"),
    );

    // A stranger's certificate is refused, in words.
    let images = store(&work.path().join("three"), "").await;
    let error = images
        .pull(&name, &PullSecrets::none())
        .await
        .expect_err("pulled");
    assert!(matches!(error, ImageError::Pull { .. }), "{error}");
    assert!(
        error.to_string().to_lowercase().contains("certificate"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_stand_in_and_rewrite() {
    if !is_root() {
        return;
    }
    let registry = Registry::plain();
    let work = tempfile::tempdir().expect("directory");
    let layout = make_layout(work.path());
    registry.push(&layout, "v1", "mirrored/tool:latest", &[]);
    // The first endpoint is dead: the next is asked.
    let yaml = format!(
        "mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:1\", \"http://{}\"]\n    \
         rewrite: {{\"^library/(.*)\": \"mirrored/$1\"}}\n",
        registry.address
    );
    let images = store(&work.path().join("store"), &yaml).await;
    let image = images
        .pull("tool", &PullSecrets::none())
        .await
        .expect("pull");
    check_content(&image);
    assert_eq!(image.references[0], "docker.io/library/tool:latest");
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_imported() {
    if !is_root() {
        return;
    }
    let work = tempfile::tempdir().expect("directory");
    let layout = make_layout(work.path());
    let images = store(&work.path().join("store"), "").await;
    let source = format!("oci:{}:v1", layout.display());
    let archive = |kind: &str, file: &str, name: &str| {
        let path = work.path().join(file);
        run(Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", &source])
            .arg(format!("{kind}:{}{name}", path.display())));
        path
    };
    let docker = archive("docker-archive", "docker.tar", ":example.io/app:v2");
    let imported = images.import_archive(&docker, None).await.expect("import");
    assert_eq!(imported[0].references, ["example.io/app:v2"]);
    check_content(&imported[0]);

    let oci = archive("oci-archive", "oci.tar", ":v3");
    let error = images
        .import_archive(&oci, None)
        .await
        .expect_err("imported");
    assert!(error.to_string().contains("give it a name"), "{error}");
    let imported = images
        .import_archive(&oci, Some("example.io/app:v3"))
        .await
        .expect("import");
    assert!(
        imported[0]
            .references
            .contains(&"example.io/app:v3".to_string())
    );
    check_content(&imported[0]);

    // Imported by hand stays, used or not.
    images
        .collect(&BTreeSet::new(), &BTreeSet::new())
        .await
        .expect("collect");
    check_content(
        &images
            .get("example.io/app:v2")
            .expect("get")
            .expect("there"),
    );

    std::fs::write(work.path().join("no.tar"), "no archive").expect("write");
    let error = images
        .import_archive(&work.path().join("no.tar"), None)
        .await
        .expect_err("imported");
    assert!(error.to_string().contains("archive"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn builtin_images_need_no_registry() {
    if !is_root() {
        return;
    }
    let work = tempfile::tempdir().expect("directory");
    let images = store(work.path(), "").await;
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(5);
    layer
        .append_data(&mut header, "hello", &b"hello"[..])
        .expect("append");
    let layer = layer.into_inner().expect("layer");
    let config = trireme_image::ImageConfig {
        entrypoint: vec!["/hello".to_string()],
        env: vec!["PORT=8080".to_string()],
        exposed_ports: vec!["8080/tcp".to_string()],
        ..Default::default()
    };
    let first = images
        .import_builtin("trireme.local/hello", &config, &layer)
        .await
        .expect("import");
    let again = images
        .import_builtin("trireme.local/hello", &config, &layer)
        .await
        .expect("import again");
    assert_eq!(first, again);
    let image = images
        .get("trireme.local/hello:latest")
        .expect("get")
        .expect("there");
    assert_eq!(image.config, config);
    assert_eq!(image.digest_reference, image.id);
    assert_eq!(
        std::fs::read(image.layers[0].join("hello")).expect("file"),
        b"hello"
    );
    // A newer program takes the name over; the old image goes once nobody uses it.
    let mut newer = tar::Builder::new(Vec::new());
    header.set_size(6);
    newer
        .append_data(&mut header, "hello", &b"hello2"[..])
        .expect("append");
    let newer = newer.into_inner().expect("layer");
    let newer = images
        .import_builtin("trireme.local/hello", &config, &newer)
        .await
        .expect("import newer");
    assert_ne!(newer.id, image.id);
    let used = std::collections::BTreeSet::from([image.layers[0].clone()]);
    images
        .collect(&Default::default(), &used)
        .await
        .expect("collect");
    assert!(image.layers[0].exists(), "a container still has it");
    images
        .collect(&Default::default(), &Default::default())
        .await
        .expect("collect");
    assert!(!image.layers[0].exists());
    assert!(newer.layers[0].exists());
}
