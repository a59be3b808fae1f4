//! An answer outlives a change of the network under it.

use std::time::{Duration, Instant};

use shoal_netlab::{Host, Segment, isolated};

use crate::node::{Node, QUESTIONS, attach, chat_body};

#[test]
fn an_answer_goes_on_while_a_stage_changes_its_address() {
    isolated(|| {
        let wifi = Segment::new("wifi").unwrap();
        let hosts = ["a", "b", "c"].map(|name| Host::new(name).unwrap());
        attach(&hosts, &wifi, "192.168.1", 2);
        // Slow enough that the answer is still under way when the address changes.
        wifi.set_delay(Duration::from_millis(20));
        let nodes = Node::cluster(&hosts);
        nodes[0].place(3);
        let body = chat_body(QUESTIONS[0], 1.0);
        let expected = nodes[0].stream(&body, |_| {});
        let mut changed = None;
        let answer = nodes[0].stream(&body, |n_pieces| {
            if n_pieces == 5 {
                hosts[1].change_address("eth0", "192.168.1.77/24").unwrap();
                changed = Some(Instant::now());
            }
        });
        let since = changed.expect("the answer has more than five pieces").elapsed();
        assert_eq!(answer, expected);
        println!("the answer ended {since:?} after the change");
        nodes[0].wait_for_alive(3);
    });
}
