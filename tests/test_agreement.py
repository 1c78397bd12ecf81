"The same codes as vector-quantize-pytorch, on the same inputs and codebooks, where it is right"
import pytest, torch
from quantizer.all import BSQ, FSQ, LFQ, RandomProjectionVQ, Residual, SimVQ, VQ

vqt = pytest.importorskip('vector_quantize_pytorch', reason="compares with vector-quantize-pytorch: pip install -e '.[bench]'")

@pytest.fixture
def z():
    torch.manual_seed(0)
    return torch.randn(4, 200, 32)

def same_projections(ours, theirs):
    "Give ours the linear layers of theirs"
    ours.inp.load_state_dict(theirs.project_in.state_dict())
    ours.out.load_state_dict(theirs.project_out.state_dict())

def same_tokens(ours, theirs, z):
    "Codes and vectors of both"
    q,codes = theirs(z)[:2]
    assert torch.equal(ours.encode(z)[...,0], codes)
    torch.testing.assert_close(ours(z).z_q, q)

@pytest.mark.parametrize('metric', ('euclidean','cosine'))
def test_vq(z, metric):
    "Euclidean and cosine: codes, and vectors exactly those of the codebook"
    theirs = vqt.VectorQuantize(dim=32, codebook_size=500, use_cosine_sim=metric=='cosine').eval()
    ours = VQ(32, 500, metric=metric).load_codebook(theirs.codebook.detach()).eval()
    same_tokens(ours, theirs, z)

def test_vq_low_dimensional(z):
    theirs = vqt.VectorQuantize(dim=32, codebook_size=500, codebook_dim=8, use_cosine_sim=True).eval()
    ours = VQ(32, 500, codebook_dim=8, metric='cosine').load_codebook(theirs.codebook.detach()).eval()
    same_projections(ours, theirs)
    same_tokens(ours, theirs, z)

def test_ema_step(z):
    "One training step: the same moving averages, without its Laplace smoothing and with k-means and revival off"
    theirs = vqt.VectorQuantize(dim=32, codebook_size=8, decay=0.9, eps=1e-12, rotation_trick=False).train()
    book = theirs.codebook.detach().clone()
    ours = VQ(32, 8, decay=0.9, kmeans_iters=0, revive_below=0.).load_codebook(book).train()
    n = torch.bincount(ours.encode(z).flatten(), minlength=8).float()
    ours.book.cluster_size.copy_(n)
    ours.book.embed_sum.copy_(book*n[:,None])
    theirs._codebook.cluster_size.copy_(n[None])
    theirs._codebook.embed_avg.copy_((book*n[:,None])[None])
    zo,zt = z.clone().requires_grad_(),z.clone().requires_grad_()
    o,(q,codes,loss) = ours(zo),theirs(zt)
    assert torch.equal(o.codes[...,0], codes)
    torch.testing.assert_close(o.losses['commitment'], loss.squeeze())
    torch.testing.assert_close(ours.codebook, theirs.codebook)
    (o.z_q.pow(2).sum()+o.losses['commitment']).backward()
    (q.pow(2).sum()+loss.sum()).backward()
    torch.testing.assert_close(zo.grad, zt.grad)

def test_rotation(z):
    "The gradient of the rotation trick"
    ours = VQ(32, 50, estimator='rotation', codebook='frozen').load_codebook(torch.randn(50, 32)).train()
    rotate_to = vqt.vector_quantize_pytorch.rotate_to
    g,zo,zt = torch.randn_like(z),z.clone().requires_grad_(),z.clone().requires_grad_()
    ours(zo).z_q.backward(g)
    rotate_to(zt, ours.decode(ours.encode(z)).detach()).backward(g)
    torch.testing.assert_close(zo.grad, zt.grad, rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('levels', ([8,5,5,5], [4,4,4], [3,6,7]))
def test_fsq(z, levels):
    theirs,ours = vqt.FSQ(levels, dim=32).eval(),FSQ(32, levels=levels).eval()
    same_projections(ours, theirs)
    same_tokens(ours, theirs, z*3)

@pytest.mark.parametrize('spherical', (False,True))
def test_lfq(z, spherical):
    theirs = vqt.LFQ(dim=32, codebook_size=1024, spherical=spherical).eval()
    ours = (BSQ if spherical else LFQ)(32, 1024).eval()
    same_projections(ours, theirs)
    same_tokens(ours, theirs, z)

def test_lfq_entropy(z):
    "Its entropy loss, in one process, where it is right"
    theirs = vqt.LFQ(dim=8, codebook_size=256, commitment_loss_weight=0., entropy_loss_weight=1., diversity_gamma=2.).train()
    ours = LFQ(8, 256, diversity_gamma=2., beta=5.).train()
    x = z[...,:8]*0.2
    loss = ours(x).losses['entropy']
    assert -10 < loss < -5 # neither term is at its end
    torch.testing.assert_close(loss, theirs(x, inv_temperature=5.)[2], rtol=1e-4, atol=1e-4)

def test_simvq(z):
    theirs,ours = vqt.SimVQ(dim=32, codebook_size=500, rotation_trick=False).eval(),SimVQ(32, 500).eval()
    ours.frozen.copy_(theirs.frozen_codebook)
    ours.map.load_state_dict(theirs.code_transform.state_dict())
    q,codes,loss = theirs(z)
    assert torch.equal(ours.encode(z)[...,0], codes)
    torch.testing.assert_close(ours(z).z_q, q)
    torch.testing.assert_close(ours(z).loss, loss) # both weigh 1 and 0.25

@pytest.mark.parametrize('shared', (False,True))
def test_residual(z, shared):
    theirs = vqt.ResidualVQ(dim=32, codebook_size=64, num_quantizers=4, shared_codebook=shared).eval()
    ours = Residual(32, 64, 4, shared=shared).eval()
    for o,t in zip(ours.inner, theirs.layers): o.load_codebook(t.codebook.detach())
    q,codes,_ = theirs(z)
    assert torch.equal(ours.encode(z), codes)
    torch.testing.assert_close(ours(z).z_q, q)

def test_random_projection(z):
    theirs = vqt.RandomProjectionQuantizer(dim=32, codebook_size=200, codebook_dim=16, num_codebooks=1, norm=False).eval()
    ours = RandomProjectionVQ(32, 200, 16).load_codebook(theirs.vq.codebook.detach().squeeze(0)).eval()
    ours.inp.weight.copy_(theirs.rand_projs[0].T)
    assert torch.equal(ours.encode(z)[...,0], theirs(z))
