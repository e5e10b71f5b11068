"""Who a JSON Web Token stands for: an issuer's keys, and the tokens that they sign.

keys        which keys an issuer has: read, kept, read again where need be
sources     where key sets are read: an issuer's discovery document, a URL, a file
tokens      the token itself; needs the extra `oidc`
"""
