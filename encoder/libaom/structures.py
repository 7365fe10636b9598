"""The C structures of libaom 3.12.1 that cross its public interface, as ctypes; names are libaom's own.

Encoder and decoder refuse another ABI version when a context is opened, which catches other layouts.
"""

from __future__ import annotations

import ctypes as c

ENCODER_ABI = 29
DECODER_ABI = 22

USAGE_ALL_INTRA = 2
END_USAGE_Q = 3
PACKET_FRAME = 0

IMAGE_FORMATS = {"420": 0x102, "mono": 0x102, "422": 0x105, "444": 0x106}
IMAGE_HIGH_DEPTH = 0x800

CONTROL_LAST_REFERENCE_UPDATES = 256
CONTROL_INSPECTION_CALLBACK = 281
CONTROL_SKIP_FILM_GRAIN = 282

INSPECT_CALLBACK = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p)


class Context(c.Structure):
    """aom_codec_ctx_t."""

    _fields_ = (
        ("name", c.c_char_p),
        ("iface", c.c_void_p),
        ("err", c.c_int),
        ("err_detail", c.c_char_p),
        ("init_flags", c.c_long),
        ("config", c.c_void_p),
        ("priv", c.c_void_p),
    )


class Rational(c.Structure):
    """aom_rational_t."""

    _fields_ = (("num", c.c_int), ("den", c.c_int))


class FixedBuffer(c.Structure):
    """aom_fixed_buf_t."""

    _fields_ = (("buf", c.c_void_p), ("sz", c.c_size_t))


class EncoderConfig(c.Structure):
    """aom_codec_enc_cfg_t; from `sframe_dist` on only `monochrome` is named."""

    _fields_ = (
        ("g_usage", c.c_uint),
        ("g_threads", c.c_uint),
        ("g_profile", c.c_uint),
        ("g_w", c.c_uint),
        ("g_h", c.c_uint),
        ("g_limit", c.c_uint),
        ("g_forced_max_frame_width", c.c_uint),
        ("g_forced_max_frame_height", c.c_uint),
        ("g_bit_depth", c.c_uint),
        ("g_input_bit_depth", c.c_uint),
        ("g_timebase", Rational),
        ("g_error_resilient", c.c_uint),
        ("g_pass", c.c_uint),
        ("g_lag_in_frames", c.c_uint),
        ("rc_dropframe_thresh", c.c_uint),
        ("rc_resize_mode", c.c_uint),
        ("rc_resize_denominator", c.c_uint),
        ("rc_resize_kf_denominator", c.c_uint),
        ("rc_superres_mode", c.c_uint),
        ("rc_superres_denominator", c.c_uint),
        ("rc_superres_kf_denominator", c.c_uint),
        ("rc_superres_qthresh", c.c_uint),
        ("rc_superres_kf_qthresh", c.c_uint),
        ("rc_end_usage", c.c_uint),
        ("rc_twopass_stats_in", FixedBuffer),
        ("rc_firstpass_mb_stats_in", FixedBuffer),
        ("rc_target_bitrate", c.c_uint),
        ("rc_min_quantizer", c.c_uint),
        ("rc_max_quantizer", c.c_uint),
        ("rc_undershoot_pct", c.c_uint),
        ("rc_overshoot_pct", c.c_uint),
        ("rc_buf_sz", c.c_uint),
        ("rc_buf_initial_sz", c.c_uint),
        ("rc_buf_optimal_sz", c.c_uint),
        ("rc_2pass_vbr_bias_pct", c.c_uint),
        ("rc_2pass_vbr_minsection_pct", c.c_uint),
        ("rc_2pass_vbr_maxsection_pct", c.c_uint),
        ("fwd_kf_enabled", c.c_int),
        ("kf_mode", c.c_uint),
        ("kf_min_dist", c.c_uint),
        ("kf_max_dist", c.c_uint),
        ("sframe_dist", c.c_uint),
        ("sframe_mode", c.c_uint),
        ("large_scale_tile", c.c_uint),
        ("monochrome", c.c_uint),
        ("rest", c.c_byte * 692),
    )


class Image(c.Structure):
    """aom_image_t."""

    _fields_ = (
        ("fmt", c.c_uint),
        ("cp", c.c_uint),
        ("tc", c.c_uint),
        ("mc", c.c_uint),
        ("monochrome", c.c_int),
        ("csp", c.c_uint),
        ("range", c.c_uint),
        ("w", c.c_uint),
        ("h", c.c_uint),
        ("bit_depth", c.c_uint),
        ("d_w", c.c_uint),
        ("d_h", c.c_uint),
        ("r_w", c.c_uint),
        ("r_h", c.c_uint),
        ("x_chroma_shift", c.c_uint),
        ("y_chroma_shift", c.c_uint),
        ("planes", c.c_void_p * 3),
        ("stride", c.c_int * 3),
        ("sz", c.c_size_t),
        ("bps", c.c_int),
        ("temporal_id", c.c_int),
        ("spatial_id", c.c_int),
        ("user_priv", c.c_void_p),
        ("img_data", c.c_void_p),
        ("img_data_owner", c.c_int),
        ("self_allocd", c.c_int),
        ("metadata", c.c_void_p),
        ("fb_priv", c.c_void_p),
    )


class Packet(c.Structure):
    """aom_codec_cx_pkt_t with its `data.frame`."""

    _fields_ = (("kind", c.c_int), ("buf", c.c_void_p), ("sz", c.c_size_t), ("rest", c.c_byte * 144))


class InspectInit(c.Structure):
    """aom_inspect_init."""

    _fields_ = (("inspect_cb", INSPECT_CALLBACK), ("inspect_ctx", c.c_void_p))


class DecodeReturn(c.Structure):
    """Av1DecodeReturn."""

    _fields_ = (("buf", c.c_void_p), ("idx", c.c_int), ("show_existing", c.c_int))


INSPECT_MI_WORDS = 26
"""16-bit words of one insp_mi_data."""
INSPECT_BSIZE_WORD = 8
"""Which of them is the BLOCK_SIZE id."""


class InspectFrame(c.Structure):
    """insp_frame_data (built without accounting)."""

    _fields_ = (
        ("mi_grid", c.c_void_p),
        ("frame_number", c.c_int16),
        ("show_frame", c.c_int),
        ("frame_type", c.c_int),
        ("base_qindex", c.c_int),
        ("mi_rows", c.c_int),
        ("mi_cols", c.c_int),
        ("tile_mi_rows", c.c_int),
        ("tile_mi_cols", c.c_int),
        ("y_dequant", c.c_int16 * 16),
        ("u_dequant", c.c_int16 * 16),
        ("v_dequant", c.c_int16 * 16),
        ("delta_q_present_flag", c.c_int),
        ("delta_q_res", c.c_int),
        ("show_existing_frame", c.c_int),
    )
