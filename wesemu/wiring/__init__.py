"""What `app.create_app` puts together: the engines that there are, the core, the APIs.

Nothing else knows concrete parts of more than one package.
"""
