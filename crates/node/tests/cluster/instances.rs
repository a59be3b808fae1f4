//! What becomes of instances.

use shoal_node::PlaceRequest;

use crate::setup::{Member, cluster, over};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_stage_is_taken_over_and_the_answer_is_the_same() {
    let mut members = cluster(3).await;
    let placed = members[0].node.place(over(2)).await.expect("three nodes are there");
    let expected = members[0].answer("demo").await.expect("it is ready");
    // Any of its nodes but the one that is asked.
    let stages = &placed.record.placement.stages;
    let is_lost = |it: &Member| stages.iter().any(|stage| stage.node == it.node.id());
    let at = 1 + members[1..].iter().position(is_lost).expect("two stages, one may be here");
    let lost = members.remove(at);
    lost.node.shutdown().await;
    let is_healed = |status: &shoal_node::InstanceStatus| {
        let record = &status.record;
        let has_moved = record.placement.stages.iter().all(|it| it.node != lost.node.id());
        record.id == placed.record.id
            && record.epoch > placed.record.epoch
            && status.state == "ready"
            && has_moved
    };
    members[0].wait_for("healed", |node| node.instances().iter().any(is_healed)).await;
    let id = placed.record.id.to_string();
    assert_eq!(members[0].answer(&id).await.expect("it is ready again"), expected);
    assert_eq!(members[1].answer(&id).await.expect("everybody knows"), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_instance_is_gone_everywhere_and_stays_gone() {
    let members = cluster(3).await;
    let placed = members[0].node.place(over(3)).await.expect("three nodes are there");
    for member in &members {
        member.wait_for("known", |_| member.spread(3).len() == 1).await;
    }
    let has_stage = |member: &Member| {
        let nodes = member.node.nodes();
        nodes.iter().any(|it| it.is_self && !it.record.stages.is_empty())
    };
    assert!(has_stage(&members[2]));
    members[1].node.unplace(placed.record.id).await.expect("any node may");
    for member in &members {
        member.wait_for("gone", |_| member.spread(3).is_empty() && !has_stage(member)).await;
    }
    // Who comes late hears of it from everybody, and brings nothing back.
    let late = Member::start("late", Some(members[2].ticket())).await;
    late.wait_for_alive(4).await;
    assert_eq!(late.spread(3).len(), 0);
    let error = members[0].node.unplace(placed.record.id).await.expect_err("it is gone");
    assert!(matches!(error, shoal_node::Error::UnknownInstance { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_on_different_nodes_and_all_answer() {
    let members = cluster(2).await;
    let request = PlaceRequest { replicas: Some(2), max_nodes: Some(1), ..over(1) };
    members[0].node.place(request).await.expect("two nodes are there");
    let mut nodes: Vec<_> =
        members[0].spread(1).iter().map(|status| status.record.placement.stages[0].node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 2);
    let too_many = PlaceRequest { replicas: Some(3), max_nodes: Some(1), ..over(1) };
    let error = members[0].node.place(too_many).await.expect_err("only two nodes");
    assert!(matches!(error, shoal_node::Error::Place(_)), "{error:?}");
    let answers = [members[0].answer("demo").await, members[1].answer("demo").await];
    let [Ok(one), Ok(two)] = answers else { panic!("{answers:?}") };
    assert_eq!(one, two);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_a_request_placed_goes_when_it_is_idle() {
    let members = cluster(1).await;
    assert_eq!(members[0].node.instances().len(), 0);
    members[0].answer("demo").await.expect("it is placed by the request");
    let status = &members[0].node.instances()[0];
    assert_eq!((status.state, status.record.unload_after_s), ("ready", Some(1)));
    members[0].wait_for("dropped", |node| node.instances().is_empty()).await;
    members[0].answer("demo").await.expect("it is placed again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_node_had_placed_on_itself_goes_when_it_is_idle() {
    let mut members = cluster(2).await;
    let placed = members[1].node.place(over(1)).await.expect("it fits");
    assert_eq!(placed.record.unload_after_s, None);
    members[0].wait_for("known", |node| node.instances().len() == 1).await;
    members.remove(1).node.shutdown().await;
    let is_taken_over = |node: &shoal_node::Node| {
        node.instances().iter().any(|it| it.record.unload_after_s == Some(1) && it.state == "ready")
    };
    members[0].wait_for("taken over", is_taken_over).await;
    members[0].wait_for("dropped", |node| node.instances().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_an_unknown_model_places_nothing() {
    let members = cluster(1).await;
    let error = members[0].answer("no/such:Q4_K_M").await.expect_err("nobody has it");
    assert!(matches!(error, shoal_node::Error::UnknownModel { .. }), "{error:?}");
    assert_eq!(members[0].node.instances().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_gets_its_stage_again() {
    let mut members = cluster(2).await;
    let placed = members[0].node.place(over(2)).await.expect("two nodes are there");
    let expected = members[0].answer("demo").await.expect("it is ready");
    let second = members.remove(1).restart().await;
    let id = placed.record.id;
    let is_ready_again = |node: &shoal_node::Node| {
        let mut instances = node.instances().into_iter();
        instances.any(|it| it.record.id == id && it.state == "ready")
    };
    members[0].wait_for("ready again", is_ready_again).await;
    assert_eq!(members[0].answer(&id.to_string()).await.expect("it is ready"), expected);
    second.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_whose_nodes_all_come_back_answers_as_it_did() {
    let mut members = cluster(3).await;
    let placed = members[0].node.place(over(3)).await.expect("three nodes are there");
    let expected = members[0].answer("demo").await.expect("it is ready");
    for member in &members {
        member.wait_for("known", |_| member.spread(3).len() == 1).await;
    }
    tokio::join!(
        members[0].node.shutdown(),
        members[1].node.shutdown(),
        members[2].node.shutdown()
    );
    let mut restarted: Vec<Member> = Vec::new();
    for member in members.drain(..) {
        let ticket = restarted.first().map(Member::ticket);
        restarted.push(member.restart_with(ticket).await);
    }
    let again = &restarted[1];
    let as_it_was = |node: &shoal_node::Node| {
        let mut instances = node.instances().into_iter();
        instances.any(|it| it.record == placed.record && it.state == "ready")
    };
    again.wait_for("ready again", as_it_was).await;
    assert_eq!(again.answer("demo").await.expect("all of them came back"), expected);
    assert!(as_it_was(&again.node), "nothing was placed anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_with_a_torn_file_of_instances() {
    let mut members = cluster(1).await;
    members[0].node.place(over(1)).await.expect("it fits");
    let path = members[0].dir().join("instances");
    let is_kept =
        |_: &shoal_node::Node| std::fs::metadata(&path).is_ok_and(|file| file.len() > 100);
    members[0].wait_for("kept", is_kept).await;
    members[0].node.shutdown().await;
    let bytes = std::fs::read(&path).expect("it is kept");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("writable");
    let member = members.remove(0).restart().await;
    assert_eq!(member.node.instances().len(), 0);
    assert!(member.dir().join("instances.damaged").exists());
    member.answer("demo").await.expect("it works");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_leaves_a_node_that_is_drained_and_answers_go_on() {
    let members = cluster(3).await;
    let placed = members[0].node.place(over(2)).await.expect("three nodes are there");
    let expected = members[0].answer("demo").await.expect("it is ready");
    let id = placed.record.id;
    let leaving = placed.record.placement.stages[1].node;
    members[0].node.drain(Some(leaving), false).await.expect("it is there");
    let has_left = |node: &shoal_node::Node| {
        let mut instances = node.instances().into_iter();
        instances.any(|it| {
            let stages = &it.record.placement.stages;
            it.record.id == id
                && it.state == "ready"
                && stages.iter().all(|stage| stage.node != leaving)
        })
    };
    members[0].wait_for("moved", has_left).await;
    assert_eq!(members[0].answer(&id.to_string()).await.expect("it is ready"), expected);
    // No plan gives it layers, until that is taken back.
    let error = members[0].node.place(over(3)).await.expect_err("two are left");
    assert!(matches!(error, shoal_node::Error::Place(_)), "{error:?}");
    members[0].node.drain(Some(leaving), true).await.expect("it is there");
    let is_back =
        |node: &shoal_node::Node| node.nodes().iter().all(|node| node.record.draining.is_none());
    members[0].wait_for("back", is_back).await;
    members[0].node.place(over(3)).await.expect("three nodes are there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_nobody_else_can_take_stays_and_says_why() {
    let members = cluster(1).await;
    let placed = members[0].node.place(over(1)).await.expect("it fits");
    members[0].node.drain(None, false).await.expect("it is this one");
    let says_why = |node: &shoal_node::Node| {
        let status = &node.instances()[0];
        status.state == "ready" && status.why.as_ref().is_some_and(|why| why.contains("is drained"))
    };
    members[0].wait_for("why", says_why).await;
    members[0].answer(&placed.record.id.to_string()).await.expect("it goes on");
    let error = members[0].node.place(over(1)).await.expect_err("nobody may take it");
    assert!(matches!(error, shoal_node::Error::Place(_)), "{error:?}");
}
