//! From what a user types to a model.

use shoal_fake_hub::Content;
use shoal_hub::{NameError, Resolved};
use shoal_proto::model::ModelFiles;

use crate::{
    cluster::{Cluster, Honesty},
    setup::{FILE, REPO, Setup, whole},
};

fn files(resolved: Result<Resolved, NameError>) -> ModelFiles {
    match resolved.expect("it is there") {
        Resolved::Files(files) => files,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_becomes_pinned_files() {
    let setup = Setup::new(4);
    let shelf = setup.library();
    for text in
        [REPO.to_owned(), format!("hf:{REPO}:q4_k_m"), format!("https://huggingface.co/{REPO}")]
    {
        assert_eq!(files(shelf.library.resolve(&text).await), setup.model, "{text}");
    }
    let by_file = files(shelf.library.resolve(&format!("hf:{REPO}/{FILE}")).await);
    assert_eq!(by_file.name, format!("{REPO}/{FILE}"));
    assert_eq!(by_file.files, setup.model.files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_name_takes_the_preferred_quantisation_and_leaves_the_rest() {
    let setup = Setup::new(4);
    let repo = "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF";
    let file = |name: &'static str| (name, Content::text(name));
    setup.hub.add_repo(
        repo,
        vec![
            file("README.md"),
            file("mmproj-f16.gguf"),
            file("tinyllama-1.1b-chat-v1.0.Q2_K.gguf"),
            file("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf"),
            file("tinyllama-1.1b-chat-v1.0.Q8_0.gguf"),
            file("tinyllama.imatrix.gguf"),
        ],
    );
    let shelf = setup.library();
    let model = files(shelf.library.resolve("tinyllama").await);
    assert_eq!(model.name, format!("{repo}:Q4_K_M"));
    assert_eq!(model.files.len(), 1);
    let model = files(shelf.library.resolve("tinyllama:1.1b-q8_0").await);
    assert_eq!(model.files[0].name, "tinyllama-1.1b-chat-v1.0.Q8_0.gguf");
    let error = shelf.library.resolve("tinyllama:1.1b-q2_k").await.expect_err("not supported");
    assert!(matches!(error, NameError::Pick { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_one_model() {
    let setup = Setup::new(4);
    let part = |no: u32| Content::text(format!("part {no}"));
    setup.hub.add_repo(
        "a/split",
        vec![("m-Q8_0-00001-of-00002.gguf", part(1)), ("m-Q8_0-00002-of-00002.gguf", part(2))],
    );
    let shelf = setup.library();
    let model = files(shelf.library.resolve("a/split").await);
    let names: Vec<&str> = model.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_near_needs_no_hub() {
    let setup = Setup::new(40);
    let cluster = Cluster::default();
    let (first, second) = (setup.library(), setup.library());
    cluster.join(&first.library, Honesty::Honest);
    cluster.join(&second.library, Honesty::Honest);
    setup.obtain(&first.library, whole()).await.expect("from the hub");
    setup.hub.reset_log();
    for shelf in [&first, &second] {
        assert_eq!(files(shelf.library.resolve(REPO).await), setup.model);
    }
    assert!(setup.hub.log().is_empty());
    let newest = files(second.library.resolve_newest(REPO).await);
    assert_eq!(newest, setup.model);
    assert!(!setup.hub.log().is_empty(), "it was asked for the newest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_url_and_a_path_are_what_they_are() {
    let setup = Setup::new(4);
    let shelf = setup.library();
    let url = setup.hub.add_file("dir/some-model.gguf", Content::text("bytes"));
    let model = files(shelf.library.resolve(&url).await);
    assert_eq!((model.name.as_str(), model.files[0].id.n_bytes), ("some-model", 5));
    let path = shelf.dir.path().join("mine.gguf");
    let text = path.to_str().expect("UTF-8");
    let error = shelf.library.resolve(text).await.expect_err("nothing is there");
    assert_eq!(error.to_string(), format!("model {text}: no such file"));
    std::fs::write(&path, "bytes").expect("there is space");
    let resolved = shelf.library.resolve(text).await.expect("now there is");
    assert_eq!(resolved, Resolved::Path(path.canonicalize().expect("there")));
}
