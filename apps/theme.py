"""How the app looks: gradio's own theme and a few rules for what it leaves cramped."""

from __future__ import annotations

import gradio as gr

THEME = gr.themes.Default(
    primary_hue="indigo",
    secondary_hue="indigo",
    neutral_hue="slate",
    radius_size="md",
    # The system's fonts: nothing is fetched from anywhere.
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
).set(
    # Text needs a contrast of 4.5: white on the hue's 500 has 4.47, grey of 400 on white 2.56.
    body_text_color_subdued="*neutral_600",
    block_info_text_color="*neutral_600",
    input_placeholder_color="*neutral_500",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    # White on red 500 has 3.76.
    button_cancel_background_fill=gr.themes.colors.red.c600,
    button_cancel_background_fill_hover=gr.themes.colors.red.c700,
)

CSS = """
/* The accent's 500 has 4.47 on white, and less on dark grey. */
button[role=tab][aria-selected=true] { color: var(--primary-600) !important; }
.dark button[role=tab][aria-selected=true] { color: var(--primary-400) !important; }
/* gradio takes the browser's outline from these, and what it draws instead is not seen. */
input:is([type=range], [type=checkbox], [type=radio]):focus-visible {
  outline: 2px solid var(--color-accent) !important; outline-offset: 2px;
}
.dark input:is([type=range], [type=checkbox], [type=radio]):focus-visible {
  outline-color: var(--primary-400) !important;
}
/* Errors of several lines: the name is older gradio's, then that since 6.31. */
.toast-text, .toast-message-text { white-space: pre-line; }
/* The browser draws scrollbars too, and white ones unless it knows of the dark. */
:root:has(.dark) { color-scheme: dark; }
/* What the whole page has to say (signed_out, lost_app): above gradio's toasts (--layer-top), which say less. */
.banner {
  position: sticky; top: 0; z-index: calc(var(--layer-top) + 1); padding: 0.75rem; text-align: center;
  font: 600 1rem var(--font); color: #fff; background: #b91c1c;
}
.banner a { color: inherit; text-decoration: underline; }
.dark #log-out a { color: var(--primary-400); }
.gradio-container > .main { max-width: 1360px; margin: 0 auto; }
#status, #compare-status { min-height: 3.2rem; }
#status p, #compare-status p { margin: 0; }
/* Drawn here: browsers' own bars take no colour in every one, and dark ones none that is seen. */
#status progress, #compare-status progress, #run-status progress {
  appearance: none; width: 100%; height: 0.5rem; border: 0; border-radius: var(--radius-md); overflow: hidden;
  background: var(--border-color-primary);
}
progress::-webkit-progress-bar { background: var(--border-color-primary); }
progress::-webkit-progress-value { background: var(--color-accent); }
progress::-moz-progress-bar { background: var(--color-accent); }
.status-text.wrong { font-weight: 600; color: var(--error-text-color); }
#blind-a img, #blind-b img { width: 100%; height: 100%; object-fit: contain; }
/* "Error", after an upload that broke off or was too large, lies over the place where the next one is dropped. */
[data-testid=status-tracker]:has(> .error) { pointer-events: none; }
[data-testid=status-tracker] > .clear-status { pointer-events: auto; }
.drop-adapters .icon-wrap { display: none; }
/* A choice that is too long ends before the arrow. */
input[role=combobox] { padding-right: 1.75rem !important; text-overflow: ellipsis; }
/* The buttons in the corner would lie on the last column's label. */
#grid .image-container { padding-top: 1.75rem; }
#gallery { min-height: 320px; }
#gallery .grid-wrap { max-height: none; overflow-y: auto; }
#head h1 { margin-bottom: 0; }
/* Galleries of a few pictures: as high as these, and narrow enough for a telephone. */
.snug .grid-wrap {
  height: auto !important; min-height: 0 !important; max-height: none !important; overflow-y: auto !important;
}
/* gradio's rows are as high as the highest, and never lower than 100 px. */
#shelf .grid-container, .snug .grid-container { grid-auto-rows: auto !important; }
.snug .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(56px, 1fr)) !important; }
.snug .thumbnail-lg { aspect-ratio: 1; height: auto; }
/* Captions for those who do not see the pictures; over small ones they would hide them. */
.unwritten .grid-container .caption-label { display: none; }
/* Pictures with labels in them keep their shape. */
#samples .thumbnail-lg, #samples .thumbnail-lg img { aspect-ratio: auto; height: auto; }
#samples .grid-container { padding-top: 2rem; }
/* Cards: the caption is the text of the card, below its picture. */
#shelf .grid-wrap { height: auto !important; min-height: 0 !important; max-height: 75vh !important; }
#shelf .thumbnail-lg { display: flex; flex-direction: column; aspect-ratio: auto; height: auto; }
#shelf .thumbnail-lg img { aspect-ratio: 1; height: auto; }
@media (max-width: 640px) { #shelf .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; } }
#shelf .caption-label {
  position: static; max-width: 100%; white-space: pre-line; overflow-wrap: anywhere; opacity: 1; border: 0;
  font-size: var(--text-sm); padding: var(--spacing-md); color: var(--body-text-color); background: none;
}
"""
