"""What single files hold beside the networks."""

from marmo.weights.maps.compvis import LEFTOVERS


def test_leftovers_are_names_with_reasons() -> None:
    names = [drop.theirs for drop in LEFTOVERS]
    assert len(set(names)) == len(names)
    assert {"betas", "alphas_cumprod", "posterior_mean_coef2", "lvlb_weights", "scale_factor", "model_ema"} <= {*names}
    assert all(drop.reason for drop in LEFTOVERS)


def test_no_network_and_no_marker_is_a_leftover() -> None:
    parts = {"model", "first_stage_model", "cond_stage_model", "control_model", "v_pred", "ztsnr"}
    assert not parts & {drop.theirs for drop in LEFTOVERS}
