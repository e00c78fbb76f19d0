//! Images: archives of every kind, registries and mirrors, layers that try to break out, and interrupted work.

mod support;

use container_runtime::{ContainerRuntime, RegistryCredential};
use runtime_embedded::EmbeddedRuntime;
use support::{
    Node, container,
    image::{Image, Layer, digest, gzip},
    registry::Registry,
    until,
};

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Imports an archive, and gives what it brought or what was wrong.
async fn import(node: &Node, bytes: &[u8]) -> Result<Vec<String>, String> {
    let archive = node.directory.path().join("image.tar");
    std::fs::write(&archive, bytes).unwrap();
    node.runtime().import_image(&archive).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_every_kind_are_understood() {
    let node = Node::new().await;
    let image = Image::busybox();
    let docker = image.docker_archive("shop/web:1.2");
    let oci = image.oci_archive("registry.example/shop/web:2");
    for (archive, name) in [
        (docker.clone(), "docker.io/shop/web:1.2"),
        (gzip(&docker), "docker.io/shop/web:1.2"),
        (zstd(&docker), "docker.io/shop/web:1.2"),
        (oci.clone(), "registry.example/shop/web:2"),
        (gzip(&oci), "registry.example/shop/web:2"),
    ] {
        assert_eq!(import(&node, &archive).await.unwrap(), [name]);
        let images = node.runtime().list_images().await.unwrap();
        assert_eq!((images.len(), images[0].id.0.as_str()), (1, digest(&image.configuration()).as_str()));
    }
    let status = node.runtime().image_status("shop/web:1.2").await.unwrap().unwrap();
    assert_eq!(status.tags, ["docker.io/shop/web:1.2", "registry.example/shop/web:2"]);
    assert!(status.digests[0].starts_with("registry.example/shop/web@sha256:"));
    // One layer, however often it came.
    let layers = node.options.data_directory.join("layers");
    assert_eq!(std::fs::read_dir(&layers).unwrap().count(), 1);

    node.runtime().remove_image("shop/web:1.2").await.unwrap();
    assert!(node.runtime().image_status("shop/web:1.2").await.unwrap().is_none());
    assert!(node.runtime().image_status("registry.example/shop/web:2").await.unwrap().is_some());
    node.runtime().remove_image("registry.example/shop/web:2").await.unwrap();
    assert!(node.runtime().list_images().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(&layers).unwrap().count(), 0);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_archives_are_told() {
    let node = Node::new().await;
    let mut image = Image::busybox();
    let good = image.docker_archive("a:1");
    assert!(import(&node, b"").await.unwrap_err().contains("holds no image"));
    assert!(import(&node, b"this is no archive at all, but it is long enough to be one block of a tar file, or nearly").await.is_err());
    assert!(import(&node, &good[..good.len() / 2]).await.is_err());
    assert!(import(&node, &Layer::new().file("manifest.json", 0o644, b"{\"not\": \"a list\"}").build()).await.is_err());
    let manifest = br#"[{"Config":"gone.json","RepoTags":["a:1"],"Layers":[]}]"#;
    assert!(import(&node, &Layer::new().file("manifest.json", 0o644, manifest).build()).await.unwrap_err().contains("gone.json"));
    // A layer that is not what the configuration says.
    let archive = image.docker_archive("a:1");
    image.layers[0] = Layer::new().file("other", 0o644, b"").build();
    let position = archive.windows(11).position(|window| window == b"bin/busybox").unwrap();
    let mut forged = archive.clone();
    forged[position + 1024] ^= 1;
    assert!(import(&node, &forged).await.unwrap_err().contains("was announced"));
    assert!(node.runtime().list_images().await.unwrap().is_empty());
    let layers = std::fs::read_dir(node.options.data_directory.join("layers")).unwrap().count();
    assert_eq!(layers, 0, "nothing half stays");
    node.finish().await;
}

/// Files of an image's merged root, by a container that lists them.
async fn listing(node: &Node, name: &str, script: &str) -> String {
    let id = node.runtime().image_status(name).await.unwrap().unwrap().id;
    let sandbox = node.sandbox("listing").await;
    let (code, text) = node.run_script(&sandbox, &id, script, |_| {}).await;
    assert_eq!(code, 0, "{text}");
    node.runtime().remove_sandbox(&sandbox).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_delete_replace_and_follow_links_of_earlier_ones() {
    let node = Node::new().await;
    let mut image = Image::busybox();
    image.layers.push(
        Layer::new()
            .directory("data", 0o711)
            .file("data/gone", 0o644, b"1")
            .file("data/kept", 0o644, b"1")
            .directory("opaque", 0o755)
            .file("opaque/old", 0o644, b"1")
            .directory("usr/lib", 0o755)
            .symlink("lib", "usr/lib")
            .directory("becomes-file", 0o755)
            .file("becomes-file/x", 0o644, b"")
            .file("twin", 0o644, b"same")
            .build(),
    );
    image.layers.push(
        Layer::new()
            .file("data/.wh.gone", 0o644, b"")
            .file("data/new", 0o4755, b"2")
            .file("opaque/.wh..wh..opq", 0o644, b"")
            .file("opaque/fresh", 0o644, b"2")
            .file("lib/through-the-link", 0o644, b"2")
            .file("becomes-file", 0o644, b"2")
            .hard_link("twin-link", "twin")
            .owned_file("owned", 0o640, (101, 102), b"")
            .build(),
    );
    import(&node, &image.docker_archive("layers:1")).await.unwrap();
    let script = "ls /data /opaque /usr/lib; cat /becomes-file /twin-link; echo; stat -c '%a %u %g %n' /data /data/new /owned; readlink /lib; stat -c %Y /data/kept";
    let text = listing(&node, "layers:1", script).await;
    assert_eq!(
        text,
        "/data:\nkept\nnew\n\n/opaque:\nfresh\n\n/usr/lib:\nthrough-the-link\n2same\n711 0 0 /data\n4755 0 0 /data/new\n640 101 102 /owned\nusr/lib\n1600000000\n"
    );
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_builders_put_into_layers_is_there() {
    // What `setcap cap_net_bind_service+ep` writes.
    const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let node = Node::new().await;
    let mut image = Image::busybox();
    let long = format!("deep/{}/{}", "d".repeat(120), "f".repeat(120));
    image.layers.push(
        Layer::new()
            .owned_file("high", 0o600, (4_000_000_000, 4_000_000_001), b"")
            .extended(&[("uid", b"3000000000"), ("gid", b"3000000001"), ("mtime", b"1600000000.5")])
            .owned_file("higher", 0o600, (0, 0), b"")
            .extended(&[("path", long.as_bytes())])
            .file("deep/cut-off", 0o644, b"long")
            .extended(&[("SCHILY.xattr.security.capability", &CAPABILITY), ("SCHILY.xattr.trusted.overlay.opaque", b"y")])
            .owned_file("capable", 0o755, (101, 102), b"")
            .special("null", tar::EntryType::Char, 0o666, (1, 3))
            .special("disk", tar::EntryType::Block, 0o660, (7, 0))
            .special("pipe", tar::EntryType::Fifo, 0o2600, (0, 0))
            .special("forged", tar::EntryType::Char, 0o666, (0, 0))
            // A directory of an old writer.
            .file("old/", 0o750, b"")
            .file("old/inside", 0o644, b"old")
            .symlink("link", "old/inside")
            .hard_link("link-too", "link")
            .owned_file("setid", 0o6755, (101, 102), b"")
            .build(),
    );
    image.layers.push(Layer::new().hard_link("null-too", "null").hard_link("capable-too", "./capable").hard_link("/bin/setid", "/setid").build());
    import(&node, &image.docker_archive("all:1")).await.unwrap();
    let script = format!(
        "stat -c '%u %g %Y' /high /higher; cat /{long}; echo; stat -c '%F %t %T %a' /null /disk /pipe /null-too; ls /forged 2>/dev/null; cat /old/inside /link-too; echo; \
         stat -c '%a %u %h' /old /setid /bin/setid; readlink /link-too"
    );
    assert_eq!(
        listing(&node, "all:1", &script).await,
        "4000000000 4000000001 1600000000\n3000000000 3000000001 1600000000\nlong\n\
         character special file 1 3 666\nblock special file 7 0 660\nfifo 0 0 2600\ncharacter special file 1 3 666\n\
         oldold\n750 0 2\n6755 101 2\n6755 101 2\nold/inside\n"
    );
    let mut capable = 0;
    for layer in std::fs::read_dir(node.options.data_directory.join("layers")).unwrap() {
        for name in ["capable", "capable-too"] {
            let path = layer.as_ref().unwrap().path().join("fs").join(name);
            let mut found = [0; 64];
            if path.exists() {
                let length = rustix::fs::getxattr(&path, "security.capability", &mut found).unwrap();
                assert_eq!(found[..length], CAPABILITY);
                assert!(rustix::fs::getxattr(&path, "trusted.overlay.opaque", &mut found).is_err());
                capable += 1;
            }
        }
    }
    assert_eq!(capable, 3, "each in its layer, and the first one again where the second layer links to it");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_cannot_write_outside() {
    let node = Node::new().await;
    let outside = node.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "untouched").unwrap();
    let target = outside.to_str().unwrap();
    let attempts = [
        Layer::new().file("../../../../../../../../../../tmp/escaped", 0o644, b"x").build(),
        Layer::new().symlink("link", target).file("link/escaped", 0o644, b"x").build(),
        Layer::new().symlink("link", "../../../../../../../../../..").file(&format!("link{target}/escaped"), 0o644, b"x").build(),
        Layer::new().symlink("link", &format!("{target}/precious")).file("link", 0o644, b"overwritten").build(),
        Layer::new().hard_link("stolen", &format!("{target}/precious")).build(),
        Layer::new().symlink("link", target).hard_link("stolen", "link/precious").build(),
        Layer::new().symlink("link", target).file("link/.wh.precious", 0o644, b"").build(),
        Layer::new().symlink("link", target).file("link/.wh..wh..opq", 0o644, b"").build(),
        Layer::new().file(".wh...", 0o644, b"").build(),
        Layer::new().file("a/.wh...", 0o644, b"").build(),
    ];
    for (number, layer) in attempts.into_iter().enumerate() {
        let image = Image { layers: vec![layer], config: serde_json::json!({ "Cmd": ["x"] }) };
        // Some are refused, others land inside; nothing may land outside.
        let _ = import(&node, &image.docker_archive(&format!("escape:{number}"))).await;
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "attempt {number}");
        assert_eq!(std::fs::read_to_string(outside.join("precious")).unwrap(), "untouched", "attempt {number}");
        assert!(!std::path::Path::new("/tmp/escaped").exists(), "attempt {number}");
    }
    let stolen = support::files_with(&node.options.data_directory, "untouched");
    assert_eq!(stolen, Vec::<std::path::PathBuf>::new());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_stopped() {
    let mut node = Node::new().await;
    drop(node.runtime.take());
    node.options.layer_limit_bytes = 16 << 20;
    node.runtime = Some(EmbeddedRuntime::open(node.options.clone()).await.unwrap());
    let bomb = Layer::new().file("zeros", 0o644, &vec![0; 20 << 20]).build();
    let image = Image { layers: vec![bomb], config: serde_json::json!({ "Cmd": ["x"] }) };
    let (manifest, blobs) = image.manifest(gzip);
    let registry = Registry::start().await;
    registry.put_image("bomb", "1", &manifest, &blobs);
    let error = node.runtime().pull_image(&format!("{}/bomb:1", registry.address), &[]).await.unwrap_err().to_string();
    assert!(error.contains("more than the 16777216 bytes that are allowed"), "{error}");
    assert_eq!(std::fs::read_dir(node.options.data_directory.join("layers")).unwrap().count(), 0);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_digest_and_index() {
    let node = Node::new().await;
    let registry = Registry::start().await;
    let mut image = Image::busybox();
    image.layers.push(Layer::new().file("second", 0o644, b"2").build());
    let (manifest, blobs) = image.manifest(|layer| if layer.len() > 100_000 { zstd(layer) } else { gzip(layer) });
    registry.put_image("shop/web", "1", &manifest, &blobs);
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(), "platform": { "os": "linux", "architecture": architecture } }],
    }))
    .unwrap();
    registry.put("/v2/shop/web/manifests/multi", "application/vnd.oci.image.index.v1+json", &index);
    let name = format!("{}/shop/web", registry.address);
    let id = node.runtime().pull_image(&format!("{name}:1"), &[]).await.unwrap().id;
    let (_, blobs_before) = registry.requests();
    assert_eq!(node.runtime().pull_image(&format!("{name}:multi"), &[]).await.unwrap().id, id);
    assert_eq!(node.runtime().pull_image(&format!("{name}@{}", digest(&manifest)), &[]).await.unwrap().id, id);
    assert_eq!(registry.requests().1, blobs_before + 2, "only the configuration is fetched again, no layer");
    let status = node.runtime().image_status(&format!("{name}@{}", digest(&manifest))).await.unwrap().unwrap();
    assert_eq!(status.tags, [format!("{name}:1"), format!("{name}:multi")]);
    let sandbox = node.sandbox("pulled").await;
    assert_eq!(node.run_script(&sandbox, &id, "cat /second", |_| {}).await, (0, "2\n".to_owned()));
    assert_eq!(std::fs::read_dir(node.options.data_directory.join("blobs")).unwrap().count(), 0, "downloads are removed");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_tried_until_one_fits() {
    let node = Node::new().await;
    let registry = Registry::start().await;
    let (manifest, blobs) = Image::busybox().manifest(gzip);
    registry.put_image("private", "1", &manifest, &blobs);
    registry.ask_for("me:secret");
    let name = format!("{}/private:1", registry.address);
    let error = node.runtime().pull_image(&name, &[]).await.unwrap_err().to_string();
    assert!(error.contains("pull access denied, repository does not exist or may require authorization"), "{error}");
    let credential = |username: &str, password: &str| RegistryCredential { username: username.to_owned(), password: password.to_owned() };
    assert!(node.runtime().pull_image(&name, &[credential("me", "wrong")]).await.is_err());
    let pulled = node.runtime().pull_image(&name, &[credential("me", "wrong"), credential("me", "secret")]).await.unwrap();
    assert_eq!(pulled.credential, Some(1));
    node.runtime().remove_image(&name).await.unwrap();
    // The same from the file.
    let file = format!("configs:\n  \"{}\":\n    auth: {{ username: me, password: secret }}\n", registry.address);
    std::fs::write(node.options.registries_file.as_ref().unwrap(), file).unwrap();
    node.runtime().pull_image(&name, &[]).await.unwrap();
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_stands_in_for_a_registry() {
    let node = Node::new().await;
    let registry = Registry::start().await;
    let (manifest, blobs) = Image::busybox().manifest(gzip);
    registry.put_image("hub/library/busybox", "1.36", &manifest, &blobs);
    let file = format!("mirrors:\n  docker.io:\n    endpoint: [\"http://127.0.0.1:1\", \"http://{}\"]\n    rewrite: {{ \"^(library/.*)\": \"hub/$1\" }}\n", registry.address);
    std::fs::write(node.options.registries_file.as_ref().unwrap(), file).unwrap();
    node.runtime().pull_image("busybox:1.36", &[]).await.unwrap();
    assert!(node.runtime().image_status("docker.io/library/busybox:1.36").await.unwrap().is_some());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lies_is_found_out() {
    let node = Node::new().await;
    let registry = Registry::start().await;
    let (manifest, blobs) = Image::busybox().manifest(gzip);
    registry.put_image("web", "1", &manifest, &blobs);
    let name = format!("{}/web", registry.address);
    let error = node.runtime().pull_image(&format!("{name}:none"), &[]).await.unwrap_err().to_string();
    assert!(error.ends_with(&format!("failed to resolve reference \"{name}:none\": {name}:none: not found")), "{error}");
    // Another layer under the same digest.
    let path = format!("/v2/web/blobs/{}", digest(&blobs[0]));
    registry.put(&path, "application/octet-stream", &gzip(b"something else"));
    assert!(node.runtime().pull_image(&format!("{name}:1"), &[]).await.is_err());
    registry.put(&path, "application/octet-stream", &[&blobs[0][..], b"and more"].concat());
    assert!(node.runtime().pull_image(&format!("{name}:1"), &[]).await.is_err());
    // Another manifest under a digest.
    registry.put(&format!("/v2/web/manifests/{}", digest(b"wanted")), "application/vnd.oci.image.manifest.v1+json", &manifest);
    assert!(node.runtime().pull_image(&format!("{name}@{}", digest(b"wanted")), &[]).await.is_err());
    assert!(node.runtime().list_images().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(node.options.data_directory.join("layers")).unwrap().count(), 0);
    registry.put(&path, "application/octet-stream", &blobs[0]);
    node.runtime().pull_image(&format!("{name}:1"), &[]).await.unwrap();
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pulls_of_one_image_fetch_it_once() {
    let node = Node::new().await;
    let registry = Registry::start().await;
    let (manifest, blobs) = Image::busybox().manifest(gzip);
    registry.put_image("web", "1", &manifest, &blobs);
    let name = format!("{}/web:1", registry.address);
    let pulls = (0..8).map(|_| node.runtime().pull_image(&name, &[]));
    for pulled in futures::future::join_all(pulls).await {
        pulled.unwrap();
    }
    assert_eq!(registry.requests().1, 8 + 1, "a configuration each, and one layer");
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_survive_a_restart_and_half_ones_do_not() {
    let (mut node, id) = Node::with_busybox().await;
    let layers = node.options.data_directory.join("layers");
    std::fs::create_dir_all(layers.join(".new-1234/fs/half")).unwrap();
    std::fs::write(node.options.data_directory.join("blobs/half"), "half").unwrap();
    node.restart().await;
    assert_eq!(node.runtime().image_status("busybox").await.unwrap().unwrap().id, id);
    assert_eq!(std::fs::read_dir(&layers).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(node.options.data_directory.join("blobs")).unwrap().count(), 0);
    // A layer that another boot did not get to the disk is not trusted, and the image with it.
    let note = std::fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path().join("layer.json");
    until("the layer is on the disk", || std::fs::read_to_string(&note).unwrap().contains("\"boot_id\":\"\"")).await;
    let text = std::fs::read_to_string(&note).unwrap().replace("\"boot_id\":\"\"", "\"boot_id\":\"another\"");
    drop(node.runtime.take());
    std::fs::write(&note, text).unwrap();
    node.runtime = Some(EmbeddedRuntime::open(node.options.clone()).await.unwrap());
    assert!(node.runtime().list_images().await.unwrap().is_empty());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_can_be_removed_and_its_container_goes_on() {
    let (node, image) = Node::with_busybox().await;
    let sandbox = node.sandbox("in-use").await;
    let id = node.run(&sandbox, &container("main", &image, &["/bin/sleep", "1000"])).await;
    node.runtime().remove_image("busybox").await.unwrap();
    assert_eq!(node.exec(&id, "echo still here").await.1, "still here\n");
    let layers = node.options.data_directory.join("layers");
    assert_eq!(std::fs::read_dir(&layers).unwrap().count(), 1);
    node.runtime().remove_container(&id).await.unwrap();
    assert_eq!(std::fs::read_dir(&layers).unwrap().count(), 0);
    node.finish().await;
}
