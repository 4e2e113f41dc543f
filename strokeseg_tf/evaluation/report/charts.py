def build_charts(summary, rows):
    return {}
