"""The browser app of symdream: pages over the library's own functions (installed as symdream_apps)."""
