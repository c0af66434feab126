"""How the app looks: gradio's own theme and a few rules for what it leaves cramped."""

from __future__ import annotations

import gradio as gr

THEME = gr.themes.Soft(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    radius_size="md",
    # The system's fonts: nothing is fetched from anywhere.
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
)

CSS = """
.toast-text { white-space: pre-line; }
.gradio-container { max-width: 1400px !important; margin: 0 auto !important; }
#status { min-height: 3.2rem; }
"""
