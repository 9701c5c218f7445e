//! Power cuts in the middle of concurrent writes: every acknowledged write is there afterwards, no other one is half
//! there, revisions never go back, and who watches sees every event once or is told to list again.
//!
//! The disk is simulated: what was not synced when the power went is lost, kept or torn, sector by sector. The cut
//! comes after a random number of operations, so also while the store is opened, repaired or compacted.

#[path = "store/model.rs"]
mod model;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use kobune_controlplane::object::Key;
use kobune_controlplane::reader::Reader;
use kobune_controlplane::store::{Backend, BackendError, Each, Op, Redb, Store, StoreError};
use model::{Intent, Model, RESOURCES, What};
use redb::StorageBackend;

/// With the process kills of `crash.rs`: a thousand.
const CUTS: u64 = 940;
const WRITERS: u64 = 4;
const SECTOR: usize = 512;

/// A small generator: a round is a function of its number.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Platter {
    /// What reads get.
    seen: Vec<u8>,
    /// What a power cut cannot take.
    synced: Vec<u8>,
    /// Between the two, in order.
    pending: Vec<Change>,
    /// Operations until the power goes.
    left: u64,
}

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Platter>>);

fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

impl Platter {
    fn change(&mut self, change: Change) {
        match &change {
            Change::Write(offset, data) => write(&mut self.seen, *offset, data),
            Change::Length(length) => self.seen.resize(*length, 0),
        }
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Change::Write(offset, data) => write(&mut self.synced, offset, &data),
                Change::Length(length) => self.synced.resize(length, 0),
            }
        }
        assert_eq!(self.synced.len(), self.seen.len());
    }

    /// What is found when the power is back.
    fn after_the_cut(self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.synced;
        // All lost, all kept, half of the changes, half of the sectors.
        let how = dice.roll(4);
        for change in self.pending {
            match change {
                _ if how == 0 || (how == 2 && dice.roll(2) == 0) => {}
                Change::Length(length) => bytes.resize(length, 0),
                Change::Write(offset, data) => {
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        if how != 3 || dice.roll(2) == 0 {
                            write(&mut bytes, offset + n * SECTOR, sector);
                        }
                    }
                }
            }
        }
        bytes
    }
}

impl Disk {
    fn new(bytes: Vec<u8>, left: u64) -> Self {
        let platter = Platter { seen: bytes.clone(), synced: bytes, pending: Vec::new(), left };
        Self(Arc::new(Mutex::new(platter)))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    /// One operation more, if there is power.
    fn powered(&self) -> Result<MutexGuard<'_, Platter>, io::Error> {
        let mut platter = self.platter();
        if platter.left == 0 {
            return Err(io::Error::other("no power"));
        }
        platter.left -= 1;
        Ok(platter)
    }

    fn cut(&self, dice: &mut Dice) -> Vec<u8> {
        let mut platter = self.platter();
        platter.left = 0;
        std::mem::take(&mut *platter).after_the_cut(dice)
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.platter().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let platter = self.platter();
        let start = index(offset);
        let found = platter.seen.get(start..start + out.len());
        out.copy_from_slice(found.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.powered()?.change(Change::Length(index(len)));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.powered()?.sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.powered()?.change(Change::Write(index(offset), data.to_vec()));
        Ok(())
    }
}

/// Compacts far more often than is sensible.
struct Restless(Redb, u64);

impl Backend for Restless {
    fn load(&mut self, each: &mut Each<'_>) -> Result<u64, BackendError> {
        self.0.load(each)
    }

    fn commit(&mut self, batch: &[Op], revision: u64) -> Result<(), BackendError> {
        self.0.commit(batch, revision)
    }

    fn tidy(&mut self, _: u64) -> Result<(), BackendError> {
        self.1 += 1;
        match self.1.is_multiple_of(16) {
            true => self.0.compact().map_err(|e| BackendError::new("compact", e)),
            false => Ok(()),
        }
    }
}

/// None where the power goes already now; nothing else is an excuse.
fn open(disk: &Disk) -> Option<Store> {
    let length = disk.clone();
    let length = move || length.len();
    let redb = Redb::on(disk.clone(), Box::new(length)).map_err(|e| BackendError::new("open", e));
    match redb.and_then(|redb| Store::with_backend(Box::new(Restless(redb, 0)))) {
        Ok(store) => Some(store),
        Err(error) => {
            assert_eq!(disk.platter().left, 0, "{error}");
            None
        }
    }
}

/// What is known outside the store, from one life to the next.
#[derive(Default)]
struct World {
    model: Model,
    /// What the last power cut left without an answer.
    in_doubt: Vec<Intent>,
    /// The highest revision that anybody was told.
    newest: u64,
    follower: Follower,
    writes: usize,
    lives: usize,
    /// Writes without an answer that were there afterwards.
    lucky: usize,
}

/// Lists once, then watches; keeps a copy.
#[derive(Default)]
struct Follower {
    model: Model,
    at: u64,
}

impl Follower {
    /// At the start of a life: goes on where it was, or lists again when told to.
    fn resume(&mut self, store: &Store) {
        if store.watch(RESOURCES[0], self.at).is_err() {
            self.at = store.revision();
            self.model = Model::read(store).only(RESOURCES[0]);
        }
        self.follow(store);
        assert_eq!(self.model, Model::read(store).only(RESOURCES[0]));
    }

    fn follow(&mut self, store: &Store) {
        let mut watcher = store.watch(RESOURCES[0], self.at).unwrap();
        loop {
            let batch = watcher.take(5).unwrap();
            for event in &batch.events {
                assert!(event.revision > self.at, "an event came twice, or late");
                self.model.see(event);
                self.at = event.revision;
            }
            self.at = batch.through;
            if batch.events.is_empty() {
                return;
            }
        }
    }
}

#[derive(Default)]
struct Told {
    acknowledged: Vec<(u64, Intent)>,
    in_doubt: Option<Intent>,
}

/// Writes until the store fails.
async fn writer(store: &Store, mut dice: Dice) -> Told {
    let mut told = Told::default();
    loop {
        let n = dice.roll(12);
        let key = Key::new(RESOURCES[index(n % 2)], "a", &format!("o{n}"));
        let found = store.get(key.resource, &key.namespace, &key.name);
        let what = match found.map(|object| object.meta.resource_version) {
            None => What::Create,
            Some(version) if dice.roll(3) == 0 => What::Delete(version),
            Some(version) => What::Update(version),
        };
        let intent = Intent { key, what, payload: dice.roll(1 << 40) };
        match store.commit(intent.write()).await {
            Ok(object) => told.acknowledged.push((object.meta.resource_version, intent)),
            Err(StoreError::Failed(_) | StoreError::Closed) => {
                told.in_doubt = Some(intent);
                return told;
            }
            // Somebody was faster.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

impl World {
    /// From one power cut to the next.
    fn live(&mut self, disk: &Disk, dice: &mut Dice) {
        let Some(store) = open(disk) else { return };
        assert!(store.revision() >= self.newest, "the revision went back");
        self.compare(Model::read(&store));
        self.newest = store.revision();
        self.lives += 1;
        self.follower.resume(&store);
        let writers = (0..WRITERS).map(|n| writer(&store, Dice(dice.roll(u64::MAX) + n)));
        let follower = &mut self.follower;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let told = runtime.block_on(async {
            let mut writing = std::pin::pin!(futures::future::join_all(writers));
            let mut news = store.watch(RESOURCES[0], store.revision()).unwrap();
            let told = loop {
                tokio::select! {
                    told = &mut writing => break told,
                    () = news.changed() => drop(news.take(usize::MAX)),
                }
                follower.follow(&store);
            };
            follower.follow(&store);
            told
        });
        store.close();
        let mut acknowledged: Vec<_> = told.iter().flat_map(|t| t.acknowledged.iter()).collect();
        acknowledged.sort_by_key(|(revision, _)| *revision);
        for (revision, intent) in acknowledged {
            assert!(*revision > self.newest, "a revision was given out twice");
            assert_eq!(self.model.judge(intent), Ok(()));
            self.model.apply(intent, *revision);
            self.newest = *revision;
            self.writes += 1;
        }
        self.in_doubt = told.into_iter().filter_map(|t| t.in_doubt).collect();
    }

    /// What is there is what was acknowledged, but for writes without an answer, each of them whole or not at all.
    fn compare(&mut self, found: Model) {
        let doubts = std::mem::take(&mut self.in_doubt);
        for intent in doubts {
            let (was, is) = (self.model.0.get(&intent.key), found.0.get(&intent.key));
            let done = match (intent.what, is) {
                (What::Delete(_), None) => was.is_some(),
                (What::Create | What::Update(_), Some(stored)) => {
                    stored.payload == intent.payload && stored.version > self.newest
                }
                _ => false,
            };
            if done {
                self.model.apply(&intent, is.map_or(0, |stored| stored.version));
                self.lucky += 1;
            }
        }
        assert_eq!(found, self.model);
    }
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let mut world = World::default();
    let mut bytes = Vec::new();
    for cut in 0..CUTS {
        let mut dice = Dice(cut);
        let left = dice.roll([40, 400][index(dice.clone().roll(2))]);
        let disk = Disk::new(bytes, left);
        world.live(&disk, &mut dice);
        bytes = disk.cut(&mut dice);
    }
    let World { lives, writes, lucky, .. } = world;
    eprintln!("{CUTS} power cuts, {lives} lives, {writes} acknowledged writes, {lucky} lucky ones");
    assert!(lives > 500 && writes > 5000 && lucky > 10);
}
