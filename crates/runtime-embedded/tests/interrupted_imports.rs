//! Killing the agent while images come in: afterwards an image is either whole and usable, or not there.

mod support;

use container_runtime::ContainerRuntime;
use runtime_embedded::EmbeddedRuntime;
use support::{
    Node,
    image::{Image, Layer, gzip},
    until,
};

/// Set for the process that imports and is killed.
const IMPORTER: &str = "KNARR_TEST_IMPORTER";

/// Not a test of its own: run in a process of its own, it imports one image after the other until it is killed.
#[test]
fn the_importer_that_is_killed() {
    let Some(directory) = std::env::var_os(IMPORTER) else { return };
    let directory = std::path::PathBuf::from(directory);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut options = runtime_embedded::Options::new(directory.join("data"), directory.join("run"));
        options.cgroup_root = directory.file_name().unwrap().to_string_lossy().into_owned();
        let runtime = EmbeddedRuntime::open(options).await.unwrap();
        println!("importer ready");
        loop {
            for number in 0..3 {
                runtime.import_image(&directory.join(format!("{number}.tar"))).await.unwrap();
            }
            for number in 0..3 {
                runtime.remove_image(&format!("image:{number}")).await.unwrap();
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_whole_or_not_there_whenever_the_agent_is_killed() {
    use std::io::BufRead;
    let mut node = Node::new().await;
    for number in 0..3_u32 {
        let mut image = Image::busybox();
        // The second layer is shared, the third is not.
        image.layers.push(Layer::new().directory("many", 0o755).file("many/shared", 0o644, &vec![7; 300_000]).build());
        let last = (0..200).fold(Layer::new().directory("own", 0o755), |layer, file| layer.file(&format!("own/{file}"), 0o644, format!("{number}-{file}").as_bytes()));
        image.layers.push(last.build());
        std::fs::write(node.directory.path().join(format!("{number}.tar")), gzip(&image.docker_archive(&format!("image:{number}")))).unwrap();
    }
    let mut found = 0;
    for round in 0..12_u64 {
        drop(node.runtime.take());
        let mut importer = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_importer_that_is_killed", "--nocapture"])
            .env(IMPORTER, node.directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(importer.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("importer ready")));
        // Another moment each time, from "just begun" to "somewhere in a later go".
        tokio::time::sleep(std::time::Duration::from_millis(round * round * 25)).await;
        importer.kill().unwrap();
        importer.wait().unwrap();

        node.runtime = Some(EmbeddedRuntime::open(node.options.clone()).await.unwrap());
        let images = node.runtime().list_images().await.unwrap();
        for image in &images {
            let Some(number) = image.tags.first().and_then(|tag| tag.rsplit_once(':')).map(|(_, number)| number.to_owned()) else { continue };
            let sandbox = node.sandbox("check").await;
            let script = "cat /own/199; ls /own | wc -l; wc -c < /many/shared";
            let (code, text) = node.run_script(&sandbox, &image.id, script, |_| {}).await;
            assert_eq!((code, text), (0, format!("{number}-199200\n300000\n")));
            node.runtime().remove_sandbox(&sandbox).await.unwrap();
            found += 1;
        }
        // Layers that no image needs are removed behind our back, by way of a name with a dot.
        let layers = node.options.data_directory.join("layers");
        until("no half layer is left", || !std::fs::read_dir(&layers).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with('.'))).await;
    }
    assert!(found > 0, "no round got as far as one image; the moments are too early");
    node.finish().await;
}
