"Loaders for any ranks, workers, resume points and lengths: every recording once, crops inside, masks that add up"
import numpy as np, torch
from hypothesis import given, settings, strategies as st
from quantizer.core.tensors import lengths_to_mask
from quantizer.data.batch_plans import LengthBuckets, PackedRows, RandomCrops, Segments, random_permutation
from quantizer.data.store import FeatureSource
from quantizer.data.loaders import BatchDataset, feature_loaders

class Ramp(FeatureSource):
    "Reads like a store: frame `t` of recording `i` is `(i,t)`"
    dim,dtype,frame_rate,problems = 2,np.dtype('float32'),10.,{}
    def __init__(self, frames): self.frames = np.asarray(frames)
    def part(self, split): return np.arange(len(self.frames))
    def read_into(self, out, at, items, starts, lengths, epoch=0):
        for to,i,s,n in zip(at, items, starts, lengths): out[to:to+n] = np.stack([np.full(n, i), s+np.arange(n)], 1)

frames = st.lists(st.integers(1, 90), min_size=1, max_size=60)
seeds = st.integers(0, 2**32-1)

@given(st.integers(1, 5000), seeds)
def test_permute(n, seed): assert np.bincount(random_permutation(np.arange(n), n, seed), minlength=n).tolist() == [1]*n

@given(frames, seeds, st.sampled_from(['crops','buckets','packed']), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.data())
def test_epoch(frames, seed, batching, batch_size, world, epoch, data):
    "Any split among ranks, any resume point: each frame of each piece at most once, whole pieces where they are not cropped, all of them in an epoch"
    source = Ramp(frames)
    kwargs = dict(batch_size=batch_size, crop_s=2., seed=seed, batching=batching, longest_s=4., packing_gap=4, world=world)
    ranks = [feature_loaders(source, rank=r, **kwargs).train for r in range(world)]
    steps = len(ranks[0])
    assert all(len(o) == steps for o in ranks)
    stop = data.draw(st.integers(0, steps), 'stop')
    seen = []
    for dl in ranks:
        dl.sampler.seek(epoch*steps)
        before = [b for b,_ in zip(dl, range(stop))]
        dl.sampler.seek(epoch*steps+stop) # as a run that goes on
        after = [dl.dataset[i] for i in dl.sampler] if stop < steps else []
        assert len(before)+len(after) == steps
        for feats,mask,ids in before+after:
            assert not feats[~mask].any()
            rows = ids[mask] if ids.ndim == 2 else ids[:,None].expand_as(mask)[mask]
            assert torch.equal(feats[mask][:,0].long(), rows)
            for r in range(len(mask)): # in a row, each recording is a run of frames
                x = feats[r][mask[r]].long()
                jumps = (x[1:,1]-x[:-1,1] != 1) & (x[1:,0] == x[:-1,0])
                if batching != 'packed': assert not jumps.any() and mask[r].sum() == len(x)
            if batching == 'crops': assert (mask.sum(1) <= 20).all()
            seen.append(feats[mask])
    seen = torch.cat(seen).long()
    assert (seen[:,1] >= 0).all() and (seen[:,1] < torch.tensor(frames)[seen[:,0]]).all()
    assert len(seen.unique(dim=0)) == len(seen) # no frame twice
    n = np.bincount(seen[:,0], minlength=len(frames))
    pieces = np.maximum(1, -(-np.asarray(frames)//40))
    if batching == 'crops': assert all(k == sum(min(20, (j+1)*f//p-j*f//p) for j in range(p)) for k,f,p in zip(n, frames, pieces))
    else: assert n.tolist() == frames

@settings(max_examples=20)
@given(seeds, st.floats(0.5, 8), st.integers(2000, 4000))
def test_padding_of_buckets(seed, shape, n):
    "Under 5 % of what is computed is padding, for lengths as corpora have them"
    frames = np.random.default_rng(seed).gamma(shape, 300/shape, n).astype(int)+20
    plan = LengthBuckets(Segments(range(n), frames, 3000), 16, 16*1500, seed=seed)
    real = cells = 0
    for s in range(len(plan)):
        k = plan.batch(0, s)[2]
        real,cells = real+k.sum(),cells+len(k)*k.max()
    assert 1-real/cells < 0.05

@settings(max_examples=5)
@given(frames, seeds)
def test_workers(frames, seed):
    "Worker processes change nothing"
    a,b = (list(feature_loaders(Ramp(frames), 3, 2., w, seed).train) for w in (0,2))
    assert len(a) == len(b) and all(torch.equal(x, y) for p,q in zip(a, b) for x,y in zip(p, q))

def test_held_batches_stay():
    "A batch that somebody holds is never written over"
    dl = feature_loaders(Ramp([30]*50), 4, 2.).train
    held = [(b[0],b[0].clone()) for b in dl]
    assert all(torch.equal(x, y) for x,y in held)
    part = next(iter(dl))[0][1,2:5] # a view of a batch that is gone
    copy = part.clone()
    for _ in dl: pass
    assert torch.equal(part, copy)

def test_crops_reach_everywhere():
    "Over the epochs a crop begins at every frame where it can; seeds and epochs differ"
    def starts(seed, epochs): return [int(RandomCrops(Segments([0], [22], 99), 1, 20, seed).batch(e, 0)[1][0]) for e in range(epochs)]
    assert set(starts(0, 60)) == {0,1,2}
    assert starts(0, 30) != starts(1, 30)

def test_epochs_differ():
    "Buckets and packed rows put other recordings together in each epoch, whatever was asked before"
    frames = np.random.default_rng(0).integers(100, 110, 64)
    for make in (lambda: LengthBuckets(Segments(range(64), frames, 999), 8, 10**6, jitter=0.1), lambda: PackedRows(Segments(range(64), frames, 999), 8, 120, 8)):
        plan = make()
        def groups(plan, epoch): return {frozenset(plan.batch(epoch, s)[0].tolist()) for s in range(len(plan))}
        a,b = groups(plan, 0),groups(plan, 1)
        assert a != b and groups(plan, 0) == a and groups(make(), 1) == b
    order = [LengthBuckets(Segments(range(64), frames, 999), 8, 10**6, seed=s).batch(0, 0)[0].tolist() for s in (0,1)]
    assert order[0] != order[1]

def test_augment():
    "Training recordings are changed in their own rows, validation is not; a recording that could not be read is masked"
    def add(feats, epoch, i): feats += 1000*(i+1)
    dls = feature_loaders(Ramp([5,9,12,30]), 4, 2., augment=add)
    for batching in ('crops','buckets','packed'):
        for feats,mask,ids in feature_loaders(Ramp([5,9,12,30]), 4, 2., batching=batching, longest_s=4., packing_gap=4, augment=add).train:
            rows = ids[mask] if ids.ndim == 2 else ids[:,None].expand_as(mask)[mask]
            assert torch.equal(feats[mask][:,0].long(), rows+1000*(rows+1)) and not feats[~mask].any()
    for feats,mask,ids in dls.valid: assert feats[mask].max() < 100
    class Broken(Ramp):
        def read_into(self, out, at, items, starts, lengths, epoch=0):
            super().read_into(out, at, items, starts, lengths)
            return [0 if i == 2 else n for i,n in zip(items, lengths)]
    for _,mask,ids in feature_loaders(Broken([5,9,12,30]), 4, 2.).train: assert mask[ids == 2].sum() == 0 and all(mask[ids == i].any() for i in (0,1,3))
