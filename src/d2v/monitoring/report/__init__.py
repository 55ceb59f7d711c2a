"""``d2v report``: one HTML file about one or several runs, from their folders alone."""
