//! What docker-registry does not do by itself: bearer tokens, lies about
//! content, and counting who asks for what.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use trireme_image::{ImageError, ImageStore, PullSecrets, Registries};

/// A registry of one image, in memory.
#[derive(Default)]
struct Stub {
    /// Path to content.
    content: BTreeMap<String, Vec<u8>>,
    /// Ask for a token first, granted to `user:s3cret`.
    bearer: bool,
    /// Requests as they came, with their query.
    seen: Mutex<Vec<String>>,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Stub {
    /// `app:v1` with one layer compressed by `compress`.
    fn with_layer(compress: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(4);
        tar.append_data(&mut header, "file", &b"data"[..])
            .expect("append");
        let plain = tar.into_inner().expect("tar");
        let blob = compress(&plain);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            digest(&plain)
        )
        .into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":{}}},"layers":[{{"digest":"{}","size":{}}}]}}"#,
            digest(&config),
            config.len(),
            digest(&blob),
            blob.len()
        );
        let mut stub = Stub::default();
        stub.content
            .insert(format!("/v2/app/blobs/{}", digest(&blob)), blob);
        stub.content
            .insert(format!("/v2/app/blobs/{}", digest(&config)), config);
        stub.content
            .insert("/v2/app/manifests/v1".to_string(), manifest.into_bytes());
        stub
    }

    fn blob_path(&self) -> String {
        // The blob that is not JSON.
        self.content
            .iter()
            .find(|(_, c)| !c.starts_with(b"{"))
            .map(|(path, _)| path.clone())
            .expect("a layer")
    }

    fn requests(&self, part: &str) -> usize {
        let seen = self.seen.lock().expect("lock");
        seen.iter().filter(|s| s.contains(part)).count()
    }
}

async fn serve(stub: Arc<Stub>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address").to_string();
    let own = address.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, stub.clone(), own.clone()));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, stub: Arc<Stub>, address: String) {
    let mut request = Vec::new();
    let mut buffer = [0u8; 4096];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let target = text.split(' ').nth(1).unwrap_or("").to_string();
    stub.seen.lock().expect("lock").push(target.clone());
    let header = |name: &str| {
        text.lines().find_map(|l| {
            l.to_ascii_lowercase()
                .starts_with(name)
                .then(|| l[name.len()..].trim().to_string())
        })
    };
    let authorization = header("authorization:").unwrap_or_default();
    let path = target.split('?').next().unwrap_or("").to_string();
    let expected = base64::engine::general_purpose::STANDARD.encode("user:s3cret");
    let (status, extra, body) = if path == "/token" {
        if authorization == format!("Basic {expected}") {
            ("200 OK", String::new(), br#"{"token":"granted"}"#.to_vec())
        } else {
            let words = br#"{"errors":[{"code":"DENIED","message":"wrong password, friend"}]}"#;
            ("401 Unauthorized", String::new(), words.to_vec())
        }
    } else if stub.bearer && authorization != "Bearer granted" {
        let challenge = format!(
            "WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"stub\",scope=\"repository:app:pull\"\r\n"
        );
        ("401 Unauthorized", challenge, Vec::new())
    } else if let Some(content) = stub.content.get(&path) {
        ("200 OK", String::new(), content.clone())
    } else {
        ("404 Not Found", String::new(), Vec::new())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}

async fn store(root: &Path, address: &str) -> ImageStore {
    let yaml = format!("mirrors: {{\"{address}\": {{endpoint: [\"http://{address}\"]}}}}");
    let registries = Registries::parse(&yaml, Path::new("registries.yaml")).expect("yaml");
    ImageStore::open(root, registries).await.expect("open")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_tokens_are_fetched() {
    let mut stub = Stub::with_layer(gzip);
    stub.bearer = true;
    let stub = Arc::new(stub);
    let address = serve(stub.clone()).await;
    let root = tempfile::tempdir().expect("directory");
    let images = store(root.path(), &address).await;
    let name = format!("{address}/app:v1");
    let error = images
        .pull(&name, &PullSecrets::none())
        .await
        .expect_err("pulled");
    assert!(matches!(error, ImageError::Denied { .. }), "{error}");
    assert!(
        error.to_string().contains("wrong password, friend"),
        "{error}"
    );
    let mut secrets = PullSecrets::none();
    let json = format!(r#"{{"auths":{{"{address}":{{"username":"user","password":"s3cret"}}}}}}"#);
    secrets
        .add_docker_config_json(json.as_bytes())
        .expect("secret");
    let image = images.pull(&name, &secrets).await.expect("pull");
    assert_eq!(
        std::fs::read(image.layers[0].join("file")).expect("file"),
        b"data"
    );
    assert!(stub.requests("scope=repository%3Aapp%3Apull") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pulls_download_a_layer_once() {
    let stub = Arc::new(Stub::with_layer(|plain| {
        zstd::encode_all(plain, 1).expect("zstd")
    }));
    let address = serve(stub.clone()).await;
    let root = tempfile::tempdir().expect("directory");
    let images = store(root.path(), &address).await;
    let mut tasks = Vec::new();
    for _ in 0..10 {
        let (images, name) = (images.clone(), format!("{address}/app:v1"));
        tasks.push(tokio::spawn(async move {
            images.pull(&name, &PullSecrets::none()).await
        }));
    }
    for task in tasks {
        task.await.expect("task").expect("pull");
    }
    assert_eq!(stub.requests(&stub.blob_path()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_must_be_what_it_is_called() {
    // A blob that is not its digest's.
    let mut stub = Stub::with_layer(|plain| plain.to_vec());
    let path = stub.blob_path();
    stub.content.get_mut(&path).expect("blob")[600] ^= 1;
    let address = serve(Arc::new(stub)).await;
    let root = tempfile::tempdir().expect("directory");
    let images = store(root.path(), &address).await;
    let name = format!("{address}/app:v1");
    let error = images
        .pull(&name, &PullSecrets::none())
        .await
        .expect_err("pulled");
    assert!(
        error.to_string().contains("expected digest sha256:"),
        "{error}"
    );
    assert_eq!(images.get(&name).expect("get"), None);

    // A blob longer than announced.
    let mut stub = Stub::with_layer(|plain| plain.to_vec());
    let path = stub.blob_path();
    stub.content
        .get_mut(&path)
        .expect("blob")
        .extend_from_slice(&[0; 100_000]);
    let address = serve(Arc::new(stub)).await;
    let images = store(root.path(), &address).await;
    let error = images
        .pull(&format!("{address}/app:v1"), &PullSecrets::none())
        .await
        .expect_err("pulled");
    assert!(error.to_string().contains("longer than"), "{error}");

    // A layer that is not the configuration's.
    let mut stub = Stub::with_layer(gzip);
    let manifest = stub.content["/v2/app/manifests/v1"].clone();
    let other = gzip(&[0; 1024]);
    let text = String::from_utf8(manifest).expect("text");
    let old = stub
        .blob_path()
        .rsplit('/')
        .next()
        .expect("digest")
        .to_string();
    let size = stub.content[&stub.blob_path()].len();
    let text = text.replace(&old, &digest(&other)).replace(
        &format!("\"size\":{size}}}]"),
        &format!("\"size\":{}}}]", other.len()),
    );
    stub.content
        .insert("/v2/app/manifests/v1".to_string(), text.into_bytes());
    stub.content
        .insert(format!("/v2/app/blobs/{}", digest(&other)), other);
    let address = serve(Arc::new(stub)).await;
    let images = store(root.path(), &address).await;
    let error = images
        .pull(&format!("{address}/app:v1"), &PullSecrets::none())
        .await
        .expect_err("pulled");
    assert!(matches!(error, ImageError::Digest { .. }), "{error}");
    let left = std::fs::read_dir(root.path().join("unfinished"))
        .expect("list")
        .count();
    assert_eq!(left, 0, "unfinished work must be cleared");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_registry_is_named() {
    let root = tempfile::tempdir().expect("directory");
    let images = store(root.path(), "127.0.0.1:1").await;
    let error = images
        .pull("127.0.0.1:1/app:v1", &PullSecrets::none())
        .await
        .expect_err("pulled");
    assert!(matches!(error, ImageError::Pull { .. }), "{error}");
    assert!(
        error
            .to_string()
            .to_lowercase()
            .contains("connection refused"),
        "{error}"
    );
    let error = images
        .pull("Bad/Name", &PullSecrets::none())
        .await
        .expect_err("pulled");
    assert_eq!(error.reason(), "InvalidImageName");
}
