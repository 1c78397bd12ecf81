"Quantizers that the tests put through the contract: every registered one as it comes, and options of them"
from quantizer.all import QUANTIZERS

def residual(**kwargs):
    "Two levels are enough for an option, and take half the time of four"
    return 'residual', dict(num_quantizers=2) | kwargs

options = { # name and arguments; a function gives them for a dimension
    'vq random start':('vq', dict(kmeans_iters=0)),
    'vq staged start':('vq', dict(kmeans_steps=3)),
    'vq eager revival':('vq', dict(kmeans_iters=0, decay=0.8, revive_below=0.5)),
    'vq gradient':('vq', dict(codebook='gradient', decay=0.8, revive_below=0.5)),
    'vq gradient, all losses':('vq', dict(codebook='gradient', orthogonal_weight=0.1, diversity_weight=0.1)),
    'vq frozen':('vq', dict(codebook='frozen')),
    'vq cosine':('vq', dict(metric='cosine', decay=0.8, revive_below=0.5)),
    'vq cosine gradient':('vq', dict(metric='cosine', codebook='gradient')),
    'vq factorised':('vq', dict(metric='cosine', codebook_dim=3)),
    'vq heads':('vq', dict(heads=2)),
    'vq rotation':('vq', dict(estimator='rotation')),
    'vq diveq':('vq', dict(estimator='diveq', codebook='gradient', codebook_weight=0.)),
    'vq drawn codes':('vq', dict(temperature=0.5)),
    'vq heads, drawn codes':('vq', dict(temperature=0.5, heads=2)),
    'vq diversity':('vq', dict(diversity_weight=0.1)),
    'gumbel soft':('gumbel', dict(hard=False, kl_weight=0.1)),
    'fsq noise':('fsq', dict(noise=0.5)),
    'simvq rotation':('simvq', dict(estimator='rotation')),
    'kmeans staged':('kmeans', dict(kmeans_steps=3)),
    'residual sizes':('residual', dict(codebook_size=[16,8,4])),
    'residual eager revival':residual(quantizer=dict(name='vq', decay=0.8, revive_below=0.5)),
    'residual dropout':residual(dropout=0.7),
    'residual shared':residual(shared=True),
    'residual shared, cosine gradient':residual(shared=True, quantizer=dict(name='vq', metric='cosine', codebook='gradient')),
    'residual attached':residual(detach=False),
    'residual rotation':residual(quantizer=dict(name='vq', estimator='rotation')),
    'residual beam':('residual', dict(beam=3)),
    'residual fsq, dropout':residual(quantizer='fsq', dropout=0.5),
    'residual lfq':residual(quantizer='lfq'),
    'residual bare fsq':lambda dim: residual(codebook_size=None, quantizer=dict(name='fsq', levels=[5]*dim)),
    'residual bare lfq':lambda dim: residual(codebook_size=2**dim, quantizer='lfq'),
    'residual bare bsq, dropout':lambda dim: residual(codebook_size=2**dim, quantizer='bsq', dropout=0.5),
    'residual gumbel':residual(quantizer='gumbel'),
    'residual factorised':residual(quantizer=dict(name='vq', codebook_dim=3, metric='cosine')),
    'grouped shared':('grouped', dict(groups=4, shared=True)),
    'grouped residual':('grouped', dict(quantizer=dict(name='residual', num_quantizers=2, dropout=0.5))),
}
variants = {k:(k, {}) for k in sorted(QUANTIZERS)} | options

def make(variant, **sizes):
    "A fresh quantizer"
    name,kwargs = variants[variant] if isinstance(variants[variant], tuple) else variants[variant](sizes['dim'])
    return QUANTIZERS[name](**(sizes | kwargs))
