//! Parts of a model.

use shoal_hub::{FileState, ModelState};
use shoal_proto::model::CHUNK_BYTES;

use crate::setup::{FILE, Setup, tensor, whole};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_is_all_that_is_fetched_and_all_that_is_on_the_disk() {
    let setup = Setup::new(160);
    let shelf = setup.library();
    setup.obtain(&shelf.library, tensor("blk.2.w")).await.expect("the hub has it");
    let share = 40 * CHUNK_BYTES;
    // The header's first guess is 2 MiB; each end of a range may reach into one more chunk.
    let bound = share + (2 << 20) + 2 * CHUNK_BYTES;
    assert!(setup.hub.served_bytes() <= bound);
    let stored = shelf.library.store().find(&setup.model.name).expect("it is listed");
    assert!(matches!(stored.state, ModelState::Partial { .. }));
    assert!(stored.n_bytes_on_disk <= bound + (64 << 10), "{}", stored.n_bytes_on_disk);
    let gguf = shelf.library.open_model(&stored).expect("its header is there");
    let tensor = gguf.tensor("blk.2.w").expect("in the directory");
    let start = usize::try_from(tensor.info.offset).expect("small");
    assert!(tensor.bytes == &setup.content[start..start + tensor.bytes.len()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_share_costs_only_what_is_missing() {
    let setup = Setup::new(160);
    let shelf = setup.library();
    for name in ["blk.2.w", "blk.2.w", "blk.0.w", "blk.3.w"] {
        setup.obtain(&shelf.library, tensor(name)).await.expect("the hub has it");
    }
    drop(shelf.library);
    let library = setup.library_in(&shelf.dir);
    setup.obtain(&library, tensor("blk.2.w")).await.expect("it is there");
    setup.obtain(&library, whole()).await.expect("the rest");
    let shelf = crate::setup::Shelf { library, dir: shelf.dir };
    setup.assert_whole(&shelf);
    assert_eq!(setup.hub.served_bytes(), setup.content.len() as u64, "nothing was fetched twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_outlives_somebody_who_cannot_use_it() {
    let setup = Setup::new(160);
    let shelf = setup.library();
    setup.obtain(&shelf.library, tensor("blk.2.w")).await.expect("the hub has it");
    let refuse: shoal_hub::Select = std::sync::Arc::new(|_| Err("not for me".to_owned()));
    setup.obtain(&shelf.library, refuse.clone()).await.expect_err("refused");
    drop(shelf.library);
    let library = setup.library_in(&shelf.dir);
    setup.obtain(&library, refuse).await.expect_err("refused again");
    let before = setup.hub.served_bytes();
    setup.obtain(&library, tensor("blk.2.w")).await.expect("it is still there");
    assert_eq!(setup.hub.served_bytes(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_that_add_up_make_a_whole_file() {
    let setup = Setup::new(160);
    let shelf = setup.library();
    for name in ["blk.3.w", "blk.1.w", "blk.0.w", "blk.2.w"] {
        setup.obtain(&shelf.library, tensor(name)).await.expect("the hub has it");
    }
    setup.obtain(&shelf.library, whole()).await.expect("nothing is left");
    setup.assert_whole(&shelf);
    let stored = shelf.library.store().find(&setup.model.name).expect("it is listed");
    assert_eq!((stored.files[0].name.as_str(), &stored.files[0].state), (FILE, &FileState::Whole));
}
