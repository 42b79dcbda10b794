"""Keys of earlier versions and what to write instead. The error for such a key says it."""

from dataclasses import fields

from .train_config import TrainConfig

REMOVED = "it was removed (see docs/lab/studies.md for the reason; the tag studies-1 still has it)"
RENAMED = {
    "retrain_epochs": "write epochs in the section retrain:",
    "retrain_lr": "write lr in the section retrain:",
    "retrain_start": "write start in the section retrain:",
    **{
        item.name: "write it in the section retrain:"
        for item in fields(TrainConfig)
        if item.metadata["retrain_only"]
    },
    "student": "write pseudo_augment_scale in the section retrain:",
    "height_cue": "write heads: [height]",
    **{
        f"{head}_weight": f"write loss_weights: {{{head}: …}}"
        for head in ("heatmap", "offset", "depth", "rotation")
    },
    "nan": "write on_nan: stop, or on_nan: rollback (formerly back)",
    "recipe": "write revision",
    "turns_deg": "write tta_rotations_deg",
    "precision_ignore": "write probability_ignore",
    "graphs": "write cuda_graphs",
    "pool_depth": "remove it: depths are always pooled now",
    "regression_radius": "remove it: it is always 1 now",
    "ignore_masks": "remove it: masked regions are always left out of the heat map's loss now",
    "depth_uncertainty": "remove it: the uncertainty is always predicted now",
    **dict.fromkeys(
        [
            *("coordinates", "level_deg", "resize", "resize_from", "leave_out", "flip_about", "colour_kind"),
            *("rotation", "yaw", "pitch_roll", "constant_pitch", "constant_roll", "radius_rule"),
            *("loss_balance", "depth_beta", "ground", "average_maps", "accumulate"),
        ],
        REMOVED,
    ),
}
# By full path, because another section has a valid key of the same name.
BY_SECTION = {"fuse.hash_distance": REMOVED}
