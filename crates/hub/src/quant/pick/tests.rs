//! Which files of real and contrived repositories are taken.

use proptest::prelude::*;

use super::*;

fn picked(paths: &[&str], wanted: Option<&str>) -> Result<Vec<String>, PickError> {
    let files: Vec<_> = paths.iter().map(|path| (*path, 1)).collect();
    let wanted = wanted.map(|label| label.parse::<Quant>().expect("a label"));
    let picked = pick(&files, wanted.as_ref(), Quant::is_supported)?;
    Ok(picked.files.into_iter().map(|file| file.path).collect())
}

#[test]
fn takes_the_usual_quantisation_and_else_the_nearest() {
    let all = ["m-Q8_0.gguf", "m-q4_k_m.gguf", "mmproj-m-f16.gguf", "m-imatrix.gguf", "README.md"];
    assert_eq!(picked(&all, None), Ok(vec!["m-q4_k_m.gguf".to_owned()]));
    assert_eq!(picked(&all, Some("q8_0")), Ok(vec!["m-Q8_0.gguf".to_owned()]));
    let near = ["m-Q8_0.gguf", "m-F16.gguf", "m-IQ4_XS.gguf"];
    assert_eq!(picked(&near, None), Ok(vec!["m-Q8_0.gguf".to_owned()]));
    assert!(matches!(picked(&near, Some("IQ4_XS")), Err(PickError::Unsupported { .. })));
    assert!(matches!(picked(&near, Some("Q6_K")), Err(PickError::NotThere { .. })));
    assert_eq!(picked(&["m.gguf"], None), Ok(vec!["m.gguf".to_owned()]));
}

#[test]
fn takes_all_parts_of_a_split_model_or_none() {
    let parts = ["Q4_K_M/m-00002-of-00002.gguf", "Q4_K_M/m-00001-of-00002.gguf", "m-Q8_0.gguf"];
    let expected = ["Q4_K_M/m-00001-of-00002.gguf", "Q4_K_M/m-00002-of-00002.gguf"];
    assert_eq!(picked(&parts, None), Ok(expected.map(str::to_owned).to_vec()));
    let missing = PickError::MissingPart { path: expected[1].to_owned() };
    assert_eq!(picked(&parts[1..], None), Err(missing));
}

#[test]
fn never_chooses_between_models() {
    let two = ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"];
    let Err(PickError::Ambiguous { choices }) = picked(&two, None) else {
        panic!("expected an ambiguity");
    };
    assert_eq!(choices, two);
    let files = [(two[0], 1), (two[1], 1)];
    assert_eq!(pick_file(&files, two[1]).map(|picked| picked.files.len()), Ok(1));
    assert!(pick_file(&files, "c.gguf").is_err());
}

#[test]
fn says_what_is_there_instead() {
    let Err(error) = picked(&["model.safetensors"], None) else { panic!("expected an error") };
    assert!(error.to_string().contains("safetensors"), "{error}");
}

proptest! {
    #[test]
    fn files_of_a_pick_belong_together(paths in prop::collection::vec(
        "(Q4_K_M/|lora/)?[ab]-(Q4_K_M|q8_0|F16)(-0000[0-3]-of-0000[1-3])?\\.gguf|\\PC{0,12}\\.gguf", 0..12)
    ) {
        let files: Vec<_> = paths.iter().map(|path| (path.as_str(), 1)).collect();
        if let Ok(picked) = pick(&files, None, |_| true) {
            let stems: BTreeSet<_> = picked.files.iter().map(|file| {
                let (directory, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
                (directory.to_owned(), stem(name).to_owned())
            }).collect();
            prop_assert_eq!(stems.len(), 1);
        }
    }
}
