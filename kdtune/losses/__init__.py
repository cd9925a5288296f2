"""The loss terms by the names that study files use. One term per module; none imports another.

A term knows what ``kdtune.base`` says of networks and losses, and nothing else. Begin with ``cross_entropy``, the
smallest; README.md says what a weight means and how to add a term.
"""

from kdtune.registry import Registry

LOSSES = Registry(
    "loss",
    "kdtune.losses",
    {
        "ce": "kdtune.losses.cross_entropy:CrossEntropy",
        "pi": "kdtune.losses.pixel_wise:PixelWise",
        "pa": "kdtune.losses.pair_wise:PairWise",
        "ho": "kdtune.losses.holistic:Holistic",
        "ifv": "kdtune.losses.intra_class_variation:IntraClassVariation",
        "cwd": "kdtune.losses.channel_wise:ChannelWise",
        "fitnet": "kdtune.losses.feature_mse:FeatureMse",
        "at": "kdtune.losses.attention_transfer:AttentionTransfer",
        "dist": "kdtune.losses.dist:Dist",
        "nfd": "kdtune.losses.nfd:NormalisedFeatures",
        "logit_std": "kdtune.losses.logit_std:StandardisedLogits",
        "dkd": "kdtune.losses.dkd:Decoupled",
        "dsd_pixel": "kdtune.losses.dsd_pixel:PixelSimilarity",
        "dsd_category": "kdtune.losses.dsd_category:CategorySimilarity",
        "consistency": "kdtune.losses.consistency:Consistency",
        "csc": "kdtune.losses.csc:ChannelSpaceCorrelation",
        "ace": "kdtune.losses.ace:AdaptiveCrossEntropy",
        "mgd": "kdtune.losses.mgd:MaskedGeneration",
        "idd_distance": "kdtune.losses.idd_distance:InterClassDistance",
        "idd_position": "kdtune.losses.idd_position:PositionInformation",
        "sstkd_structural": "kdtune.losses.sstkd_structural:StructuralTexture",
        "sstkd_statistical": "kdtune.losses.sstkd_statistical:StatisticalTexture",
        "salc_attention": "kdtune.losses.salc_attention:SelfAttention",
        "salc_layerwise": "kdtune.losses.salc_layerwise:LayerwiseContext",
        "fakd": "kdtune.losses.fakd:FeatureAugmented",
        "cirkd_batch": "kdtune.losses.cirkd_batch:CrossImage",
        "cirkd_memory_pixel": "kdtune.losses.cirkd_memory_pixel:PixelMemory",
        "cirkd_memory_region": "kdtune.losses.cirkd_memory_region:RegionMemory",
        "apd_kl": "kdtune.losses.apd_kl:PerspectiveKl",
        "apd_prototype": "kdtune.losses.apd_prototype:PrototypeAlignment",
        "ka_adaptation": "kdtune.losses.ka_adaptation:KnowledgeAdaptation",
        "ka_affinity": "kdtune.losses.ka_affinity:KnowledgeAffinity",
    },
)
