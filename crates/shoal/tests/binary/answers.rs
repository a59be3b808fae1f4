//! Promise 1, one answer: the same bytes with any number of threads, any instruction set, alone or beside others.

use crate::{
    process::{NodeProcess, stdout},
    start::shoal,
};

const QUESTION: &str = "What is Shoal?";

fn run(extra: &[&str]) -> String {
    let mut args = vec!["run", "demo", QUESTION, "--seed", "7", "--max-tokens", "48"];
    args.extend(extra);
    stdout(&args)
}

#[test]
fn the_demonstration_model_answers() {
    let answer = stdout(&["run", "demo", QUESTION, "--temperature", "0"]);
    assert!(answer.contains("Shoal"), "{answer}");
    assert!(answer.ends_with('\n') && !answer.contains("<|"), "{answer}");
}

#[test]
fn threads_and_instruction_sets_do_not_change_a_byte() {
    for temperature in ["0", "1"] {
        let expected = run(&["--temperature", temperature, "--threads", "1", "--isa", "scalar"]);
        for extra in [&["--threads", "1"][..], &["--threads", "2"], &["--threads", "5"]] {
            let args = [&["--temperature", temperature], extra].concat();
            assert_eq!(run(&args), expected, "{args:?}");
        }
    }
}

#[test]
fn the_seed_decides() {
    let answers: Vec<String> = (0..4)
        .map(|seed: u32| {
            let seed = seed.to_string();
            stdout(&[
                "run",
                "demo",
                QUESTION,
                "--temperature",
                "2",
                "--top-k",
                "0",
                "--top-p",
                "1",
                "--seed",
                &seed,
                "--max-tokens",
                "24",
            ])
        })
        .collect();
    assert!(answers.iter().any(|answer| *answer != answers[0]), "{answers:?}");
}

#[test]
fn piped_input_is_the_prompt() {
    use std::{io::Write, process::Stdio};

    let mut child = shoal(&["run", "demo", "--temperature", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped above");
    stdin.write_all(QUESTION.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let answer = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(answer, stdout(&["run", "demo", QUESTION, "--temperature", "0"]));
}

#[test]
fn a_request_gives_the_same_bytes_beside_three_others() {
    let node = NodeProcess::start("one", &[]);
    let questions = [QUESTION, "How do I add a phone?", "Hello!", "Why does the WiFi matter?"];
    let alone: Vec<String> = questions.iter().map(|question| node.chat(question, 1.0, 3)).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let node = &node;
        let chats = questions.map(|question| scope.spawn(move || node.chat(question, 1.0, 3)));
        chats.into_iter().map(|chat| chat.join().expect("it answers")).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn stats_go_to_standard_error_as_one_line() {
    let output = crate::process::output(&["run", "demo", QUESTION, "--stats", "--seed", "1"]);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("tokens/s"), "{stderr}");
}

#[test]
fn bench_prints_json_that_tools_can_read() {
    let text = stdout(&[
        "bench", "demo", "-p", "16,20", "-n", "4", "-d", "0,8", "-b", "1,2", "-t", "1,2", "-r",
        "2", "--json",
    ]);
    let results: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(results.len(), 2);
    for (result, n_threads) in results.iter().zip([1, 2]) {
        assert_eq!(result["n_threads"], n_threads);
        let speeds = result["speeds"].as_array().expect("a list");
        let works: Vec<_> = speeds
            .iter()
            .map(|speed| {
                assert_eq!(speed["per_s"].as_array().expect("a list").len(), 2);
                assert!(speed["per_s_median"].as_f64().expect("a number") > 0.0);
                let count = |key: &str| speed[key].as_u64().expect("a count");
                (speed["kind"] == "prompt", count("n_tokens"), count("depth"), count("n_sequences"))
            })
            .collect();
        let at = |depth| {
            [(true, 16, depth, 1), (true, 20, depth, 1), (false, 4, depth, 1), (false, 4, depth, 2)]
        };
        assert_eq!(works, [at(0), at(8)].concat());
    }
}
