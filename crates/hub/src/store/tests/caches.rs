//! Models that other programs keep, in trees like theirs.

use std::os::unix::fs::symlink;

use shoal_proto::model::FileOrigin;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Puts a file into the cache of Hugging Face's programs.
fn hf(fixture: &Fixture, repo: &str, commit: &str, path: &str, bytes: &[u8]) -> PathBuf {
    let dir = format!("hub/models--{}", repo.replace('/', "--"));
    let blob = hex(&id(bytes));
    let at = fixture.write(&format!("{dir}/blobs/{blob}"), bytes);
    let link = fixture.root.path().join(format!("{dir}/snapshots/{commit}/{path}"));
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    let up = "../".repeat(path.split('/').count() + 1);
    symlink(format!("{up}blobs/{blob}"), link).unwrap();
    at.canonicalize().unwrap()
}

fn ollama(fixture: &Fixture, path: &str, bytes: &[u8]) -> PathBuf {
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"sha256:00"}},"layers":[
            {{"mediaType":"application/vnd.ollama.image.license","digest":"sha256:00","size":3}},
            {{"mediaType":"application/vnd.ollama.image.model","digest":"{}","size":{}}}]}}"#,
        id(bytes).digest,
        bytes.len()
    );
    fixture.write(&format!("ollama/manifests/{path}"), manifest.as_bytes());
    fixture.write(&format!("ollama/blobs/sha256-{}", hex(&id(bytes))), bytes)
}

#[test]
fn the_hugging_face_cache_is_used_in_place() {
    let fixture = Fixture::new();
    let (old, new) = (gguf("old"), gguf("new"));
    let (repo, other) =
        ("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "fedcba9876543210fedcba9876543210fedcba98");
    let blob = hf(&fixture, repo, COMMIT, "qwen2.5-q4_k_m.gguf", &new);
    hf(&fixture, repo, COMMIT, "mmproj-f16.gguf", &gguf("p"));
    hf(&fixture, repo, COMMIT, "Q8_0/qwen2.5-q8_0-00001-of-00002.gguf", &gguf("1"));
    hf(&fixture, repo, COMMIT, "Q8_0/qwen2.5-q8_0-00002-of-00002.gguf", &gguf("2"));
    hf(&fixture, repo, other, "qwen2.5-q4_k_m.gguf", &old);
    hf(&fixture, repo, other, "qwen2.5-q2_k.gguf", &old);
    fixture.write("hub/models--Qwen--Qwen2.5-0.5B-Instruct-GGUF/refs/main", COMMIT.as_bytes());
    fixture.write("hub/models--Qwen--Qwen2.5-0.5B-Instruct-GGUF/blobs/ab.incomplete", b"half");
    fixture.write("hub/datasets--a--b/snapshots/c/d.gguf", b"no model");
    let expected = ["Q4_K_M", "Q8_0", "Q2_K"].map(|quant| format!("{repo}:{quant}"));
    assert_eq!(names(&fixture.store), expected);

    let found = fixture.store.find(&expected[0]).unwrap();
    assert_eq!(
        (found.place, &found.state, &found.files[0].path),
        (Place::HfCache, &ModelState::Whole, &blob)
    );
    let manifest = found.manifest.unwrap();
    let origin = FileOrigin::Hub {
        repo: repo.to_owned(),
        commit: COMMIT.to_owned(),
        path: "qwen2.5-q4_k_m.gguf".to_owned(),
    };
    assert_eq!(
        (manifest.files[0].id, manifest.files[0].origin.as_ref()),
        (id(&new), Some(&origin))
    );
    assert_eq!(fixture.store.find(&expected[1]).unwrap().files.len(), 2);

    let file = fixture.store.find_file(&id(&new)).unwrap();
    assert_eq!(fixture.store.hashes(&file).unwrap().hashes, chunk_hashes(&new));
    let error = fixture.store.remove(&expected[0]).unwrap_err().to_string();
    assert!(error.ends_with("it belongs to the Hugging Face cache; remove it there"), "{error}");
    let report = fixture.store.verify(&expected[0], true, &mut |_, _| {}).unwrap();
    assert!(report.is_good() && blob.exists());
    overwrite(&blob, 40, b"damage");
    let report = fixture.store.verify(&expected[0], true, &mut |_, _| {}).unwrap();
    assert!(matches!(report.files[0].verdict, Verdict::Damaged { repaired: false, .. }));
    let error = fixture.store.hashes(&file).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn links_out_of_a_cache_lead_nowhere() {
    let fixture = Fixture::new();
    let secret = fixture.write("elsewhere/secret.gguf", b"mine");
    let snapshot = fixture.root.path().join("hub/models--a--b/snapshots/c");
    fs::create_dir_all(&snapshot).unwrap();
    symlink(&secret, snapshot.join("x-Q4_0.gguf")).unwrap();
    symlink("/dev/zero", snapshot.join("z-Q4_0.gguf")).unwrap();
    symlink("missing", snapshot.join("m-Q4_0.gguf")).unwrap();
    symlink(".", snapshot.join("circle")).unwrap();
    symlink(secret.parent().unwrap(), snapshot.join("dir")).unwrap();
    assert!(fixture.store.list().is_empty());
    let blob = ollama(&fixture, "registry.ollama.ai/library/x/y", b"mine");
    fs::remove_file(&blob).unwrap();
    symlink(&secret, &blob).unwrap();
    assert!(damage(&fixture.store.find("x:y").unwrap()).ends_with("not a file of Ollama's"));
}

#[test]
fn without_links_the_cache_holds_copies() {
    let fixture = Fixture::new();
    let bytes = gguf("copy");
    fixture.write("hub/models--gpt2/snapshots/c/gpt2-q8_0.gguf", &bytes);
    let found = fixture.store.find("gpt2:Q8_0").unwrap();
    assert_eq!((found.files[0].id, found.manifest), (None, None));
    fixture.store.hashes(&found.files[0]).unwrap();
    assert_eq!(fixture.store.find("gpt2:Q8_0").unwrap().files[0].id, Some(id(&bytes)));
}

#[test]
fn ollamas_models_are_used_in_place() {
    let fixture = Fixture::new();
    let bytes = gguf("llama");
    let blob = ollama(&fixture, "registry.ollama.ai/library/llama3.2/1b", &bytes);
    ollama(&fixture, "registry.ollama.ai/somebody/tuned/latest", &bytes);
    ollama(&fixture, "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF/Q4_K_M", &bytes);
    ollama(&fixture, "example.com/a/b/c", &bytes);
    fixture.write("ollama/manifests/registry.ollama.ai/library/cloud/latest", br#"{"layers":[]}"#);
    let expected = [
        "example.com/a/b:c",
        "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "llama3.2:1b",
        "somebody/tuned:latest",
    ];
    assert_eq!(names(&fixture.store), expected);
    let found = fixture.store.find("llama3.2:1b").unwrap();
    assert_eq!((found.place, &found.state), (Place::Ollama, &ModelState::Whole));
    assert_eq!(
        (found.files[0].id, &found.files[0].path),
        (Some(id(&bytes)), &blob.canonicalize().unwrap())
    );
    assert_eq!(fixture.store.hashes(&found.files[0]).unwrap().hashes, chunk_hashes(&bytes));
    assert!(matches!(fixture.store.remove("llama3.2:1b"), Err(StoreError::Foreign { .. })));

    fs::write(&blob, b"short").unwrap();
    let error = damage(&fixture.store.find("llama3.2:1b").unwrap()).to_owned();
    assert!(error.ends_with("got 5"), "{error}");
    fs::remove_file(&blob).unwrap();
    assert!(damage(&fixture.store.find("llama3.2:1b").unwrap()).contains("No such file"));
    fixture.write("ollama/manifests/registry.ollama.ai/library/llama3.2/1b", b"{");
    assert!(
        damage(&fixture.store.find("llama3.2:1b").unwrap()).contains("not a manifest of Ollama's")
    );
}

#[test]
fn the_stores_own_model_comes_first() {
    let fixture = Fixture::new();
    hf(&fixture, "owner/repo-GGUF", COMMIT, "m-Q4_K_M.gguf", &gguf("m"));
    let model = fixture.download(NAME, &[("m-Q4_K_M.gguf", &gguf("m"))]);
    assert_eq!(names(&fixture.store), [NAME, NAME]);
    assert_eq!(fixture.store.find(NAME).unwrap().place, Place::Own);
    assert_eq!(fixture.store.find(&NAME.to_lowercase()).unwrap().place, Place::Own);
    assert_eq!(fixture.store.find_file(&model.files[0].id).unwrap().place, Place::Own);
    fixture.store.remove(NAME).unwrap();
    assert_eq!(fixture.store.find(NAME).unwrap().place, Place::HfCache);
}
